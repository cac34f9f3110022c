#include "fake_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/utf8.h"

#define MAX_RUNNING 4096
#define TICK_NS 200000

struct fake_backend {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct request *running[MAX_RUNNING];
    bool cancelled[MAX_RUNNING];
    unsigned n_running, n_cancelled;
    enum engine_state state;
    bool have_facts, hold, stop;
    int refuse_status, refuse_after;
    int fail_status;
    unsigned fail_tokens;
};

/* --- what is said --- */

static float logprob_of(uint32_t at)
{
    return -0.5f - (float)(at % 8) / 4;
}

/* n_top best tokens: the sampled one and its neighbours. */
static void add_tops(struct choice *c, struct output_token *t, uint32_t n_top)
{
    c->tops = realloc(c->tops, (c->n_tops + n_top + 1) * sizeof *c->tops);
    assert_non_null(c->tops);
    t->n_top = n_top;
    t->top_at = c->n_tops;
    for (uint32_t i = 0; i < n_top; i++)
        c->tops[c->n_tops++] =
            (struct wire_logprob){(t->token + (int32_t)i) % 256, t->logprob - (float)i};
}

/* Adds one token to a choice; a character's bytes make text when the last is there. */
static void speak(struct request *r, uint32_t index)
{
    static const char TEXT[] = FAKE_TEXT;
    struct choice *c = &r->choices[index];
    uint32_t at = (c->n_tokens + index) % (uint32_t)strlen(TEXT), back = 0, cp;
    struct output_token t = {.token = (uint8_t)TEXT[at], .text_at = (uint32_t)c->text.len};
    uint8_t bytes[4];

    if (c->n_tokens == c->cap_tokens) {
        c->cap_tokens = c->cap_tokens ? 2 * c->cap_tokens : 16;
        c->tokens = realloc(c->tokens, c->cap_tokens * sizeof *c->tokens);
        assert_non_null(c->tokens);
    }
    if (r->params.n_logprobs >= 0) {
        t.logprob = logprob_of(c->n_tokens);
        add_tops(c, &t, (uint32_t)r->params.n_logprobs);
    }
    c->tokens[c->n_tokens++] = t;
    while (back < 3 && back + 1 < c->n_tokens &&
           ((uint8_t)c->tokens[c->n_tokens - 1 - back].token & 0xc0) == 0x80)
        back++;
    for (uint32_t i = 0; i <= back; i++)
        bytes[i] = (uint8_t)c->tokens[c->n_tokens - 1 - back + i].token;
    if (utf8_next(bytes, back + 1, &cp) == (int)back + 1)
        buf_append(&c->text, bytes, back + 1);
}

static void tell_prompt(struct request *r)
{
    if (!r->params.prompt_logprobs || r->n_prompt_tokens)
        return;
    for (uint32_t i = 0; i < r->n_prompt; i++)
        r->prompt_tokens[i] =
            (struct output_token){.token = r->prompt[i], .logprob = i ? logprob_of(i) : 0};
    r->n_prompt_tokens = r->n_prompt;
}

static void finish(struct request *r, enum finish_reason why, const struct mt_err *err)
{
    for (uint32_t i = 0; i < r->params.n; i++)
        if (!r->choices[i].finish)
            r->choices[i].finish = why;
    r->n_finished = r->params.n;
    if (err)
        r->err = *err;
    r->done = true;
}

/* One tick of one request; true when it has ended. */
static bool advance(const struct fake_backend *f, struct request *r, bool cancelled)
{
    struct mt_err err = {.status = f->fail_status};

    pthread_mutex_lock(&r->lock);
    tell_prompt(r);
    if (cancelled) {
        finish(r, FINISH_ABORT, NULL);
    } else if (f->fail_status && r->choices[0].n_tokens >= f->fail_tokens) {
        snprintf(err.text, sizeof err.text, "the workers died");
        finish(r, FINISH_ERROR, &err);
    } else {
        for (uint32_t i = 0; i < r->params.n; i++)
            if (r->choices[i].n_tokens < r->params.max_tokens)
                speak(r, i);
        if (r->choices[0].n_tokens == r->params.max_tokens)
            finish(r, FINISH_LENGTH, NULL);
    }
    cancelled = r->done;
    pthread_mutex_unlock(&r->lock);
    return cancelled;
}

/* --- the engine's side --- */

static void tick(struct fake_backend *f)
{
    for (unsigned i = 0; i < f->n_running;) {
        struct request *r = f->running[i];
        bool cancelled = f->cancelled[i], ended;

        if (f->hold && !cancelled) {
            i++;
            continue;
        }
        ended = advance(f, r, cancelled);
        pthread_mutex_unlock(&f->lock); /* as the engine: no lock is held in notify */
        r->notify(r, r->user);
        pthread_mutex_lock(&f->lock);
        if (!ended) {
            i++;
            continue;
        }
        f->n_cancelled += cancelled;
        f->n_running--;
        f->running[i] = f->running[f->n_running];
        f->cancelled[i] = f->cancelled[f->n_running];
        request_unref(r);
    }
}

static void *run(void *arg)
{
    const struct timespec pause = {.tv_nsec = TICK_NS};
    struct fake_backend *f = arg;

    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        if (!f->n_running)
            pthread_cond_wait(&f->changed, &f->lock);
        tick(f);
        pthread_cond_broadcast(&f->changed);
        pthread_mutex_unlock(&f->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static int fake_submit(void *engine, struct request *r, struct mt_err *reterr)
{
    struct fake_backend *f = engine;
    int status = 0;

    pthread_mutex_lock(&f->lock);
    if (f->refuse_status && !f->refuse_after--)
        status = mt_error(reterr, f->refuse_status, "refused by the fake");
    else if (f->n_running == MAX_RUNNING)
        status = mt_error(reterr, MT_ELIMIT, "full");
    else {
        f->cancelled[f->n_running] = false;
        f->running[f->n_running++] = request_ref(r);
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return status;
}

static void fake_cancel(void *engine, struct request *r)
{
    struct fake_backend *f = engine;

    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->n_running; i++)
        if (f->running[i] == r)
            f->cancelled[i] = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void fake_status(void *engine, struct engine_status *ret)
{
    struct fake_backend *f = engine;

    memset(ret, 0, sizeof *ret);
    pthread_mutex_lock(&f->lock);
    ret->state = f->state;
    ret->have_facts = f->have_facts;
    ret->facts.vocab = 257;
    ret->facts.max_positions = FAKE_POSITIONS;
    if (f->state == ENGINE_DOWN)
        snprintf(ret->text, sizeof ret->text, "rank 1 died");
    pthread_mutex_unlock(&f->lock);
}

struct fake_backend *fake_backend_new(void)
{
    struct fake_backend *f = calloc(1, sizeof *f);

    assert_non_null(f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->state = ENGINE_READY;
    f->have_facts = true;
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
    return f;
}

void fake_backend_free(struct fake_backend *f)
{
    pthread_mutex_lock(&f->lock);
    assert_int_equal(f->n_running, 0);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

struct backend fake_backend_ops(struct fake_backend *f)
{
    return (struct backend){f, fake_submit, fake_cancel, fake_status};
}

/* --- for the test --- */

#define LOCKED(f, statement) \
    do { \
        pthread_mutex_lock(&(f)->lock); \
        statement; \
        pthread_mutex_unlock(&(f)->lock); \
    } while (0)

void fake_backend_state(struct fake_backend *f, enum engine_state state, bool have_facts)
{
    LOCKED(f, f->state = state; f->have_facts = have_facts);
}

void fake_backend_hold(struct fake_backend *f, bool hold)
{
    LOCKED(f, f->hold = hold);
}

void fake_backend_refuse(struct fake_backend *f, int status, int after)
{
    LOCKED(f, f->refuse_status = status; f->refuse_after = after);
}

void fake_backend_fail(struct fake_backend *f, int status, unsigned tokens)
{
    LOCKED(f, f->fail_status = status; f->fail_tokens = tokens);
}

unsigned fake_backend_running(struct fake_backend *f)
{
    unsigned n;

    LOCKED(f, n = f->n_running);
    return n;
}

unsigned fake_backend_cancelled(struct fake_backend *f)
{
    unsigned n;

    LOCKED(f, n = f->n_cancelled);
    return n;
}

void fake_backend_await_idle(struct fake_backend *f)
{
    pthread_mutex_lock(&f->lock);
    while (f->n_running)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

/* --- the tokenizer --- */

/* The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 and on, in
 * order. */
static unsigned alphabet(unsigned byte)
{
    unsigned shifted = 0;

    for (unsigned b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b != 0xad);

        if (b == byte)
            return printable ? b : 0x100 + shifted;
        shifted += !printable;
    }
    return 0;
}

struct tokenizer *fake_tokenizer(void)
{
    struct tokenizer *t = NULL;
    struct mt_err err = {0};
    struct buf json;

    buf_init(&json, 1 << 20);
    buf_puts(&json,
             "{\"added_tokens\":[{\"id\":256,\"content\":\"<|end|>\",\"special\":true,\"single_"
             "word\":false,"
             "\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],\"normalizer\":null,"
             "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_"
             "offsets\":true,"
             "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
             "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"model\":{"
             "\"type\":\"BPE\","
             "\"merges\":[],\"vocab\":{");
    for (unsigned b = 0; b < 256; b++)
        buf_printf(&json, "\"\\u%04x\":%u,", alphabet(b), b);
    buf_puts(&json, "\"<|end|>\":256}}}");
    if (tokenizer_parse((const char *)json.data, json.len, "fake", &t, &err))
        fail_msg("%s", err.text);
    buf_done(&json);
    return t;
}
