/* A generation request and what it has produced: the object between an HTTP handler and the engine.
 *
 * Made by the handler (tokenised, checked), submitted to the engine, written by the engine's
 * thread, read by HTTP threads. Everything from `lock` down is protected by it; what is above is
 * constant after submission. Reference counted: the handler holds one, the engine another. JSON
 * never comes in here. */
#ifndef MT_DAEMON_REQUEST_H
#define MT_DAEMON_REQUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"
#include "api/wire.h"

#define REQUEST_ID_BYTES 48
#define REQUEST_MAX_CHOICES 128
#define REQUEST_MAX_STOPS 20
#define REQUEST_MAX_STOP_BYTES 1024
#define REQUEST_MAX_STOP_TOKENS 16
#define REQUEST_TEMPLATE_STOPS 4 /* of either, kept for the ends of turns of a chat template */
#define REQUEST_MAX_PRIORITY 1000
#define REQUEST_MAX_TEXT (16u << 20) /* bytes of one choice's text */

enum finish_reason {
    FINISH_NONE,   /* still running */
    FINISH_STOP,   /* end-of-sequence token, stop token or stop string */
    FINISH_LENGTH, /* max_tokens or the model's longest sequence */
    FINISH_ABORT,  /* cancelled by the client's disconnect */
    FINISH_ERROR,  /* see request.err: deadline, job died, shutdown */
};

struct request_params {
    uint32_t max_tokens; /* new tokens per choice; 0 only with echo */
    float temperature, top_p, min_p;
    int32_t top_k; /* 0: off */
    bool has_seed;
    uint64_t seed;        /* drawn by request_new where has_seed is false */
    uint32_t n;           /* choices */
    int32_t n_logprobs;   /* -1: none */
    bool prompt_logprobs; /* echo with logprobs */
    bool ignore_eos;
    uint32_t n_stops;
    struct {
        char *text;
        size_t len;
    } stops[REQUEST_MAX_STOPS]; /* owned by the request */
    bool include_stop;          /* keep the stop string in the text */
    /* Tokens that end a choice besides the model's end-of-sequence, also with ignore_eos. */
    uint32_t n_stop_tokens;
    int32_t stop_tokens[REQUEST_MAX_STOP_TOKENS];
    int64_t deadline_ms; /* from submission; 0: none */
    int32_t priority;    /* lower goes first */
};

/* One emitted token. text is not here: pieces of characters make no text; the choice's text is what
 * may be shown. */
struct output_token {
    int32_t token;
    float logprob;    /* valid with logprobs */
    uint32_t text_at; /* where in the choice's text its own begins, in bytes; prompt not counted */
    uint32_t n_top;
    uint32_t top_at; /* into choice.tops */
};

struct choice {
    struct buf text; /* valid UTF-8, never part of a stop string, only ever appended to */
    /* [n_tokens] as sampled, the stop token included unless it is end-of-sequence */
    struct output_token *tokens;
    uint32_t n_tokens, cap_tokens;
    struct wire_logprob *tops;
    uint32_t n_tops, cap_tops;
    enum finish_reason finish;
};

struct request {
    char id[REQUEST_ID_BYTES]; /* "cmpl-..." or "chatcmpl-..." */
    struct request_params params;
    int32_t *prompt; /* [n_prompt], owned */
    uint32_t n_prompt;
    uint64_t submitted_us, first_token_us, done_us; /* CLOCK_MONOTONIC; written by the engine */
    /* Called by the engine's thread after new output or the end, without the lock; must be quick
     * and must not call the engine. The last call follows `done`, possibly after a reader has seen
     * that, so `user` must live until then. Set before submission. */
    void (*notify)(struct request *r, void *user);
    void *user;
    int refs;     /* atomic */
    void *ticket; /* the engine's alone */

    pthread_mutex_t lock;
    struct choice *choices; /* [params.n] */
    /* [n_prompt] logprobs of the prompt (the first has none), with prompt_logprobs */
    struct output_token *prompt_tokens;
    struct wire_logprob *prompt_tops;
    uint32_t n_prompt_tokens, n_prompt_tops, cap_prompt_tops;
    uint32_t cached_tokens;
    uint32_t n_finished; /* choices */
    bool done;           /* all choices finished, or failed; nothing is written after this */
    struct mt_err err;   /* status != 0: the request failed as a whole */
};

/* Takes ownership of prompt and of params' stop texts, on success only. id_prefix: "cmpl" or
 * "chatcmpl". */
int request_new(const char *id_prefix, const struct request_params *params, int32_t *prompt,
                uint32_t n_prompt, struct request **ret, struct mt_err *reterr);
struct request *request_ref(struct request *r);
void request_unref(struct request *r); /* NULL allowed */

const char *finish_reason_name(
    enum finish_reason f); /* OpenAI's: "stop", "length", ...; NULL for FINISH_NONE */

#endif
