"""Data sets, images and augmentation: from files on disk to uint8 batches and normalised tensors."""
