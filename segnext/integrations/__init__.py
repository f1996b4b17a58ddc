"""Other libraries' ways to make and use our models; nothing here is imported by the rest of `segnext`.

- `import segnext.integrations.timm` registers the encoders with timm, and so with segmentation_models_pytorch.
- `segnext.integrations.hub` loads models from the Hugging Face hub, and puts them there with a model card.
- `import segnext.integrations.transformers` registers SegNeXt with the Auto classes of Hugging Face transformers.
"""
