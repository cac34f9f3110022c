/* A small Mixtral in a directory of its own, whose parts a test may change before they are written:
 * 2 layers, 4 experts (top 2), hidden 16, inter 24, 4 heads of 4 (2 for keys), vocabulary 32. */
#ifndef MT_TESTS_MODEL_DIR_H
#define MT_TESTS_MODEL_DIR_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

#define DIR_LAYERS 2
#define DIR_EXPERTS 4
#define DIR_HIDDEN 16
#define DIR_INTER 24
#define DIR_VOCAB 32
#define DIR_MAX_FILES 12

enum dir_layout {
    DIR_TWO_SHARDS,       /* dense weights, experts */
    DIR_ONE_FILE,         /* model.safetensors */
    DIR_SHARD_PER_EXPERT, /* dense weights, then layer 0's experts, layer 1's */
};

/* File 0 is config.json, 1 the index (of no use in DIR_ONE_FILE), from 2 on the shards. */
struct model_dir {
    char path[64];
    unsigned n;
    unsigned skew; /* blanks after each header's JSON: moves the data's alignment */
    struct dir_file {
        char name[64];
        json_t *json;  /* the file, or a shard's header */
        uint8_t *data; /* [len]; a shard's */
        size_t len;
    } file[DIR_MAX_FILES];
};

void model_dir_init(struct model_dir *d, enum dir_layout layout, enum dtype dtype);
void model_dir_write(const struct model_dir *d);
void model_dir_done(struct model_dir *d); /* removes what was written */
/* The path of a file, in a static buffer. */
const char *model_dir_path(const struct model_dir *d, unsigned file);

/* What is in byte i of a tensor. */
uint8_t model_dir_byte(const char *tensor, size_t i);

#endif
