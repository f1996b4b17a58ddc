/* libsegnext: runs a deployed SegNeXt on a CPU, without Python and without PyTorch.
 *
 *     segnext_model* model = NULL;
 *     if (segnext_open("t.safetensors", SEGNEXT_DTYPE_OF_FILE, 0, &model) != SEGNEXT_OK) {
 *       fprintf(stderr, "%s\n", segnext_last_message());
 *     }
 *
 * The file is one that `segnext.deploy(model).save("t.safetensors")` wrote in Python. On the same machine, with as many
 * threads, logits and masks are those of DeployedSegNeXt, to the bit.
 *
 * Stability: NOT stable before version 1.0. Functions, types and numbers may change with every release until then, so
 * build your program with the header of the library that it runs with.
 *
 * Threads: all functions may be called from several threads at once, also with the same model, except that no other
 * call may use a model while segnext_close gets it. Each concurrent call has memory of its own.
 *
 * Failures: a function returns a status. It never ends the process and no C++ exception leaves it. What was wrong is
 * one line in segnext_last_message(), and results are as they were, or incomplete.
 */
#ifndef SEGNEXT_H
#define SEGNEXT_H

#include <stddef.h>
#include <stdint.h>

#define SEGNEXT_VERSION "0.1.0"

/* Images have at most so many rows, columns, and members of a batch; memory ends before. A mask of 512 x 512 takes
 * about 15 MB beside the weights, and the memory grows with the pixels. */
#define SEGNEXT_LARGEST_SIDE 65536

#if defined(__GNUC__)
#define SEGNEXT_API __attribute__((visibility("default")))
#else
#define SEGNEXT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct segnext_model segnext_model;

typedef enum segnext_status {
  SEGNEXT_OK = 0,
  SEGNEXT_INVALID_ARGUMENT = 1, /* an argument is out of range */
  SEGNEXT_BAD_FILE = 2,         /* the file cannot be read, or is no deployed SegNeXt */
  SEGNEXT_UNSUPPORTED = 3,      /* a model, or a machine, that this library cannot run */
  SEGNEXT_OUT_OF_MEMORY = 4,
  SEGNEXT_NON_FINITE = 5, /* there are NaN or Inf among the logits, so that no class can be read from them */
  SEGNEXT_INTERNAL = 6    /* a fault of this library; please report it */
} segnext_status;

/* Of activations and matrix products; sums, statistics, the NMF's state and logits are always float32. */
typedef enum segnext_dtype {
  SEGNEXT_DTYPE_OF_FILE = 0, /* the one that the model was deployed with */
  SEGNEXT_FLOAT32 = 1,
  SEGNEXT_BFLOAT16 = 2
} segnext_dtype;

/* The library's version; SEGNEXT_VERSION is the header's. */
SEGNEXT_API const char* segnext_runtime_version(void);

/* One line about the last failure of a call in this thread; "" without one. The next call that fails replaces it. */
SEGNEXT_API const char* segnext_last_message(void);

/* Reads a file and packs its weights for this machine; the file may be replaced or removed afterwards.
 *
 * threads: for every call; 0 takes as many as OpenMP would (one per core, or OMP_NUM_THREADS).
 * model: gets the model, which segnext_close frees, or NULL.
 *
 * The environment variable SEGNEXT_CPU_ISA names another instruction set than the best, as for the Python package. */
SEGNEXT_API segnext_status segnext_open(const char* path, segnext_dtype dtype, int threads, segnext_model** model);

/* Frees a model; NULL is fine. */
SEGNEXT_API void segnext_close(segnext_model* model);

SEGNEXT_API int segnext_num_classes(const segnext_model* model);

/* A class's name in UTF-8, "class 7" if the file has no names; NULL if there is no such class. Valid until
 * segnext_close. */
SEGNEXT_API const char* segnext_class_name(const segnext_model* model, int index);

/* The colours of the classes, red, green, blue of each; NULL if the file has none. Valid until segnext_close. */
SEGNEXT_API const uint8_t* segnext_palette(const segnext_model* model);

/* Channels of the image, 3 for RGB. */
SEGNEXT_API int segnext_in_channels(const segnext_model* model);

/* Bytes per pixel of a mask: 1 (uint8_t) up to 256 classes, else 4 (int32_t). */
SEGNEXT_API int segnext_mask_bytes(const segnext_model* model);

/* The shape (K, h, w) of an image's logits: K is the number of classes (1 for a model with a threshold), h and w are
 * mostly an eighth of height and width, rounded up. */
SEGNEXT_API segnext_status segnext_logits_shape(const segnext_model* model, int64_t height, int64_t width,
                                                int64_t shape[3]);

/* The most likely class of every pixel.
 *
 * pixels: (height, width, in_channels), red first, 0 to 255. They are normalised as the file says, and not resized: if
 *     the model was trained at another size (short_side in Python), resize the image first.
 * row_bytes: from a row to the next; 0 if there are no gaps.
 * mask: (height, width), uint8_t or int32_t, see segnext_mask_bytes; rows without gaps. */
SEGNEXT_API segnext_status segnext_predict(segnext_model* model, const uint8_t* pixels, int64_t height, int64_t width,
                                           int64_t row_bytes, void* mask);

/* Logits before they are resized to the image; they may hold NaN or Inf.
 *
 * images: (batch, in_channels, height, width), normalised, without gaps.
 * logits: (batch, K, h, w), see segnext_logits_shape, without gaps. */
SEGNEXT_API segnext_status segnext_logits(segnext_model* model, const float* images, int64_t batch, int64_t height,
                                          int64_t width, float* logits);

#ifdef __cplusplus
}
#endif

#endif
