/* moetuner place: what its subcommands share. One thread; the solver runs in child processes
 * (place_jobs.c), so that what it does to itself ends nothing else. */
#ifndef MT_CLI_PLACE_H
#define MT_CLI_PLACE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "api/option.h"
#include "placement/placement.h"
#include "placement/score.h"

#define PLACE_MAX_SOURCES (PLACE_MAX_SCENARIOS / 2) /* each gives prefill and decode */
#define PLACE_MAX_JOBS 256

struct place_args;

/* A subcommand. place.c reads its options into a config of its own, and says what it returned. */
struct place_command {
    const char *usage, *about; /* what follows its name; what it does */
    const struct option *options;
    size_t config_size, help_offset; /* of the options' struct; of its bool for --help */
    bool terms;                      /* --help explains presets and figures, too */
    int (*run)(const void *config, const struct place_args *args, int stop_fd,
               struct mt_err *reterr);
};

extern const struct place_command PLACE_SOLVE, PLACE_SCORE, PLACE_COMPARE, PLACE_DIFF, PLACE_IMPORT,
    PLACE_EXPORT, PLACE_GENERATE, PLACE_EXPLAIN, PLACE_REPLAY;

/* ---- options (place_options.c) ---- */

/* What makes a problem; every subcommand's config that has a trace has one of these as `in`. */
struct place_input {
    char *trace, *test; /* only rows of the help: lists are in struct place_args */
    char *cluster, *model, *documents;
    int64_t prefill_tokens, decode_batch, prompt_tokens;
    double decode_share, prompt_fraction, home_slack;
    int weight; /* enum place_weight */
    int semantics, homes;
};

enum place_weight { PLACE_WEIGHT_EQUAL, PLACE_WEIGHT_TOKENS };
extern const char *const PLACE_WEIGHTS[], *const PLACE_SEMANTICS[], *const PLACE_HOMES[];

/* Rows of a table over `type`, for the fields of its `in`. */
#define PLACE_ROW(type, name, kind, field, value, min, max, choices, arg, help) \
    { \
        name, kind, offsetof(type, in.field), value, min, max, choices, arg, "Problem", help \
    }
#define PLACE_TEXT(type, name, field, arg, help) \
    PLACE_ROW(type, name, OPTION_TEXT, field, NULL, 0, 0, NULL, arg, help)
#define PLACE_CHOICE(type, name, field, value, choices, help) \
    PLACE_ROW(type, name, OPTION_CHOICE, field, value, 0, 0, choices, NULL, help)
#define PLACE_REAL(type, name, field, value, max, help) \
    PLACE_ROW(type, name, OPTION_REAL, field, value, 0, max, NULL, "X", help)
#define PLACE_COUNT(type, name, field, value, min, help) \
    PLACE_ROW(type, name, OPTION_INT, field, value, min, 1 << 24, NULL, "N", help)

#define PLACE_ROW_TRACE(type) \
    PLACE_TEXT(type, "trace", trace, "T...", \
               "Routing traces (the .json beside the .u8 or .u16) or recorded loads (JSON); each " \
               "is a domain. May be given several times, and takes all words up to the next " \
               "option.")
#define PLACE_ROW_CLUSTER(type) \
    PLACE_TEXT(type, "cluster", cluster, "C", \
               "A cluster's file (JSON), or a preset: h200x8, h200x8x2 (two nodes), h100x8, " \
               "cpu:N, ...")
#define PLACE_ROW_MODEL(type) \
    PLACE_TEXT(type, "model", model, "DIR", \
               "Hugging Face directory whose config.json has the sizes. Default: known by its " \
               "shape.")
#define PLACE_ROWS_PROBLEM(type) \
    PLACE_ROW_CLUSTER(type), PLACE_ROW_MODEL(type), \
        PLACE_TEXT(type, "documents", documents, "A:B", \
                   "Only documents A to B - 1 of each trace, counted from 0."), \
        PLACE_CHOICE(type, "weight", weight, "equal", PLACE_WEIGHTS, \
                     "Whether domains count the same, or by their tokens."), \
        PLACE_REAL(type, "decode-share", decode_share, "0.5", 1, \
                   "Part of all tokens that are decoded; the others are prefilled."), \
        PLACE_COUNT(type, "prefill-tokens", prefill_tokens, "8192", 1, \
                    "Tokens of a prefill step, over all ranks."), \
        PLACE_COUNT(type, "decode-batch", decode_batch, "256", 1, \
                    "Sequences of a decode step, over all ranks; each has one token."), \
        PLACE_CHOICE(type, "semantics", semantics, "home", PLACE_SEMANTICS, \
                     "home: a token's vector goes from its home to its experts and back, as " \
                     "servers do it; flow: from expert to expert, as the paper has it."), \
        PLACE_CHOICE(type, "homes", homes, "load", PLACE_HOMES, \
                     "Where sequences live: anywhere, by load; or by affinity, near the experts " \
                     "of their prompt."), \
        PLACE_REAL(type, "prompt-fraction", prompt_fraction, "0.5", 1, \
                   "With homes by affinity: the part of a document that is its prompt."), \
        PLACE_COUNT(type, "prompt-tokens", prompt_tokens, "0", 0, \
                    "Tokens of the prompt instead; 0: as --prompt-fraction has it."), \
        PLACE_REAL(type, "home-slack", home_slack, "0.1", 100, \
                   "With homes by affinity: a rank's tokens may exceed the mean by this part.")
#define PLACE_ROW_HELP(type) \
    { \
        "help", OPTION_FLAG, offsetof(type, help), "false", 0, 0, NULL, NULL, "Output", \
            "Prints this list." \
    }

/* The words of a command line: lists taken out, -o spelt --output. */
struct place_args {
    int argc;
    char **argv; /* owned; the words are borrowed */
    const char *trace[PLACE_MAX_SOURCES], *test[PLACE_MAX_SOURCES];
    uint32_t traces, tests;
};

/* Defaults, then flags. *args and *config need _args_done and option_done in any case. */
int place_args_read(int argc, char **argv, const struct option *table, void *config,
                    struct place_args *args, struct mt_err *reterr);
void place_args_done(struct place_args *args);
int place_need(const char *value, const char *option, struct mt_err *reterr);
void place_help(const char *name, const struct place_command *command);

/* ---- the problem (place_load.c) ---- */

struct place_source {
    char name[TRACE_NAME];
    bool paths;         /* a trace; otherwise loads alone */
    struct trace trace; /* owned */
    double *load;       /* [layers][experts], owned */
    double tokens;
};

/* All that was read; every source has the same shape. */
struct place_set {
    uint32_t layers, experts, topk, sources;
    bool paths; /* of all sources */
    struct place_source source[PLACE_MAX_SOURCES];
};

/* first_tokens: of each trace at most so many (0: all). */
int place_set_read(const struct place_input *in, const char *const *path, uint32_t n,
                   uint32_t first_tokens, struct place_set *ret, struct mt_err *reterr);
/* The documents before and after the split of each trace; loads are in both, as they are. */
int place_set_split(const struct place_set *s, double fraction, uint32_t first_tokens,
                    struct place_set *ret_fit, struct place_set *ret_rest, struct mt_err *reterr);
void place_set_done(struct place_set *s);

/* The model's sizes by --model or by shape. *ret_known false: neither. */
int place_dims(const struct place_input *in, const struct place_set *s, struct model_dims *ret,
               bool *ret_known, struct mt_err *reterr);
/* Borrows the set. plan (or NULL): one that must fit; slots grow to hold it where the cluster does
 * not fix them. */
int place_problem_make(const struct place_input *in, const struct place_set *s, uint32_t spare,
                       const struct plan *plan, struct place_problem *ret, struct mt_err *reterr);
/* One line: model, traces, cluster. */
void place_problem_print(const struct place_input *in, const struct place_set *s,
                         const struct place_problem *p, FILE *out);
json_t *place_problem_json(const struct place_input *in, const struct place_set *s,
                           const struct place_problem *p);

/* ---- where loads and vectors go (place_picture.c) ---- */

/* Over all tokens of a set, domains weighed alike; homes are spread over a trace's tokens in order,
 * as the sampled evaluation's with homes by load are. Loads alone: copies of an expert share its
 * tokens, and there is no traffic. */
struct place_picture {
    uint32_t layers, ranks;
    double *load;     /* [layers][ranks] token-expert pairs per token */
    double *vectors;  /* [layers][ranks][ranks] from, to: vectors per token; NULL: no paths */
    double *distinct; /* [layers] |S| */
};

int place_picture_make(const struct place_problem *p, const struct place_set *s,
                       const struct plan *plan, struct place_picture *ret, struct mt_err *reterr);
void place_picture_done(struct place_picture *p);
/* max / mean of a layer's loads. */
double place_picture_balance(const struct place_picture *p, uint32_t layer);
/* "rank 3 in", "node 1 out to the network": where dispatch takes longest, all layers together. */
void place_picture_port(const struct place_problem *p, const struct place_picture *pic, char *ret,
                        size_t n);

/* ---- solving (place_jobs.c) ---- */

struct place_search {
    const struct place_method *method;
    uint64_t seed, iterations;
    bool plain; /* place_run.plain */
    double gap;
    int64_t time_ms; /* 0: until the method ends */
    uint32_t jobs;   /* processes, with seeds seed, seed + 1, ... */
    int stop_fd;
    bool progress; /* a line on standard error */
    FILE *curve;   /* CSV: seconds, best objective and bound so far, iterations; NULL: none */
};

struct place_outcome {
    struct plan plan; /* owned */
    bool optimal, interrupted;
    double objective, bound, seconds;
    char no_bound[160], note[256]; /* of bound: "" if there is one */
    uint64_t iterations, seed;     /* of all seeds; of the best */
    uint32_t seeds;                /* that were tried */
    uint32_t lost;                 /* processes that ended without a plan */
    char lost_text[160];
};

const struct place_method *place_method_find(const char *name, struct mt_err *reterr);
uint32_t place_jobs_default(const struct place_method *method, uint64_t iterations);
int place_jobs_run(const struct place_problem *p, const struct place_search *s,
                   struct place_outcome *ret, struct mt_err *reterr);

/* ---- output (place_output.c) ---- */

/* A file that appears whole or not at all. */
struct place_output {
    FILE *file;
    char *path, *temporary; /* owned; temporary NULL: written in place (not a regular file) */
};

int place_output_open(const char *path, struct place_output *ret, struct mt_err *reterr);
int place_output_commit(struct place_output *o, struct mt_err *reterr);
void place_output_drop(struct place_output *o); /* also after commit */

/* ---- figures (place_print.c) ---- */

json_t *place_score_json(const struct place_problem *p, const struct score *s);
int place_json_print(json_t *root, FILE *out, struct mt_err *reterr); /* steals root */
/* (objective - bound) / bound as text: "0.53 %"; without a bound "-", or "own" if the method has
 * proven the optimum of what it minimises, which is not J. */
void place_gap_print(double objective, double bound, bool optimal, char *ret, size_t n);
/* 1.234 us */
void place_seconds_print(double seconds, char *ret, size_t n);

#endif
