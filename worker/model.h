/* A model in a rank's memory: the configuration read from config.json, and its weights.
 *
 * Loading is done once by the main thread. Weights of mapped files are used in place (dense) or
 * packed into expert slots. Everything a file can contain is checked here; after model_load the
 * forward pass trusts what it finds. */
#ifndef MT_WORKER_MODEL_H
#define MT_WORKER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"
#include "kernels/kernels.h"

#define MODEL_MAX_LAYERS WIRE_MAX_LAYERS
#define MODEL_MAX_EXPERTS WIRE_MAX_EXPERTS
#define MODEL_MAX_VOCAB (1u << 24)
#define MODEL_MAX_HIDDEN (1u << 16)
#define MODEL_MAX_INTER (1u << 20)
#define MODEL_MAX_HEADS (1u << 10)
#define MODEL_MAX_HEAD_DIM (1u << 10)
#define MODEL_MAX_POSITIONS (1u << 21)

/* Facts of a model, whatever its family: what config.json says, checked and translated. */
struct model_config {
    char family[32];
    uint32_t vocab, hidden, layers, heads, kv_heads, head_dim;
    uint32_t max_positions;
    float rms_eps;
    float rope_theta;
    uint32_t rope_dims;
    uint32_t window; /* sliding window, 0: none */
    bool tied;       /* lm_head is the embedding */
    uint32_t inter;  /* of one routed expert */
    struct router router;
    int32_t bos;
    uint32_t n_eos;
    int32_t eos[WIRE_MAX_EOS];
    enum dtype dtype; /* declared, for model_facts; what counts is each tensor's own */
};

/* How a family names and shapes things: a further family is a row in family.c and a small file. */
struct family {
    const char *model_type;   /* config.json "model_type" */
    const char *architecture; /* "architectures"[0] */
    /* Reads the family's own keys and refuses unsupported values by name; the common keys have been
     * read. json_root is jansson's: see worker/fields.h. */
    int (*configure)(const void *json_root, const char *file, struct model_config *c,
                     struct mt_err *reterr);
    /* Tensor names, printf formats with the layer (and expert) number. */
    struct family_names {
        const char *embed, *final_norm, *head;
        const char *attn_norm, *q, *k, *v, *o, *ffn_norm, *router;
        const char *expert_gate, *expert_up, *expert_down;
    } names;
};

struct layer_weights {
    const void *attn_norm; /* [hidden] */
    const void *ffn_norm;  /* [hidden] */
    enum dtype attn_norm_dtype, ffn_norm_dtype;
    struct weight q;         /* [heads*head_dim][hidden] */
    struct weight k;         /* [kv_heads*head_dim][hidden] */
    struct weight v;         /* [kv_heads*head_dim][hidden] */
    struct weight o;         /* [hidden][heads*head_dim] */
    struct weight router;    /* [experts][hidden] */
    struct expert_pool pool; /* this rank's slots of this layer */
};

struct model {
    struct model_config config;
    struct weight embed;    /* [vocab][hidden] */
    struct weight head;     /* [vocab][hidden] */
    const void *final_norm; /* [hidden] */
    enum dtype final_norm_dtype;
    struct rope rope;
    struct layer_weights layer[MODEL_MAX_LAYERS];
    uint64_t dense_bytes, expert_bytes /* one expert */, held_bytes /* the experts in the slots */;
    struct model_files *files; /* mappings and allocations, private to model.c */
};

struct model_source {
    const char *dir;    /* Hugging Face directory, or NULL */
    const char *config; /* config.json for dummy weights */
    bool dummy;
    uint64_t seed; /* of dummy weights: a tensor's values depend on seed and its name alone */
};

/* Reads config.json (and generation_config.json) only. */
int model_configure(const struct model_source *source, struct model_config *ret,
                    struct mt_err *reterr);
/* config.json from bytes, for tests and fuzzing. */
int model_config_parse(const char *json, size_t len, const char *name, struct model_config *ret,
                       struct mt_err *reterr);
/* generation_config.json from bytes: its bos and eos tokens replace those of config, which is
 * untouched on failure. */
int model_config_parse_generation(const char *json, size_t len, const char *name,
                                  struct model_config *config, struct mt_err *reterr);
const struct family *family_find(const char *model_type); /* NULL: unknown */
const char *family_list(void);                            /* "mixtral, ..." */

/* Loads the dense weights and makes `slots` expert slots per layer with the experts in held: for
 * each layer l and slot s, held[l*slots + s] is an expert id, or -1 for a spare slot, which is
 * zeroed. Only those experts' bytes are read. */
int model_load(const struct model_source *source, const struct model_config *config,
               struct kernels *k, const int32_t *held, uint32_t slots, struct model **ret,
               struct mt_err *reterr);
/* The same from an open source (worker/tensors.h), which the model then owns; on failure it is
 * still the caller's. */
struct tensors;
int model_load_from(struct tensors *source, const struct model_config *config, struct kernels *k,
                    const int32_t *held, uint32_t slots, struct model **ret, struct mt_err *reterr);
void model_free(struct model *m, struct kernels *k);
/* kv_bytes_per_token is that of a float32 cache. */
void model_facts(const struct model_config *c, struct wire_facts *ret);

#endif
