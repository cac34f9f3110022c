/* Frames: what is put is what is got; what is cut, lengthened or damaged is refused or decodes to
 * something within the caps, and never touches memory outside the body (run under the address
 * sanitizer). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/wire.h"

static uint64_t state = 1;

static uint32_t random_below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

/* A copy in an allocation of exactly the body's size, so that reading past it is caught. */
static uint8_t *body_of(const struct buf *frame, size_t *ret_len)
{
    struct wire_header header;
    struct mt_err err;
    uint8_t *body;

    assert_int_equal(wire_get_header(frame->data, &header, &err), 0);
    assert_int_equal(header.body, frame->len - WIRE_HEADER_BYTES);
    assert_int_equal(header.incarnation, 7);
    body = malloc(header.body + 1u);
    assert_non_null(body);
    body = realloc(body, header.body ? header.body : 1);
    memcpy(body, frame->data + WIRE_HEADER_BYTES, header.body);
    *ret_len = header.body;
    return body;
}

/* --- builders of random frames ---------------------------------------------------------------- */

static void random_step(struct wire_step *s)
{
    uint32_t ranks = 1 + random_below(8), runs = random_below(20);
    int32_t tokens[64];
    uint32_t blocks[16];

    assert_int_equal(wire_step_begin(s, random_below(1000) + 1, random_below(5), ranks), 0);
    for (uint32_t i = random_below(5); i-- > 0;)
        assert_int_equal(wire_step_free_seq(s, random_below(WIRE_MAX_SEQS)), 0);
    for (uint32_t i = random_below(5); i-- > 0;) {
        struct wire_admit a = {
            random_below(WIRE_MAX_SEQS), random_below(ranks), 0.5f, 0.9f, 0.1f, 40, state, i};
        assert_int_equal(wire_step_admit(s, &a), 0);
    }
    for (uint32_t i = 0; i < runs; i++) {
        struct wire_run run = {
            .seq = i, .pos = random_below(100), .n_logprobs = (int32_t)random_below(22) - 1};
        bool last = random_below(2);

        run.n_tokens = last ? 1 : 1 + random_below(60);
        run.flags = last              ? WIRE_RUN_LAST | WIRE_RUN_SAMPLE
                    : random_below(2) ? WIRE_RUN_NEXT
                                      : WIRE_RUN_SAMPLE;
        run.n_blocks = random_below(16);
        for (uint32_t t = 0; t < 64; t++)
            tokens[t] = (int32_t)random_below(50000);
        for (uint32_t b = 0; b < 16; b++)
            blocks[b] = random_below(1000);
        assert_int_equal(wire_step_run(s, random_below(ranks), &run, tokens, blocks), 0);
    }
}

static void random_result(struct wire_result *r)
{
    uint32_t ranks = 1 + random_below(4);
    struct wire_logprob logprobs[4 * 4];
    float logits[64];

    assert_int_equal(wire_result_begin(r, random_below(1000), ranks), 0);
    for (uint32_t i = 0; i < 64; i++)
        logits[i] = (float)random_below(1000);
    for (uint32_t i = 0; i < 16; i++)
        logprobs[i] = (struct wire_logprob){(int32_t)i, -(float)i};
    for (uint32_t i = random_below(10); i-- > 0;) {
        struct wire_sample s = {
            .seq = i, .token = (int32_t)i, .n_prompt = 3, .n_entries = 4, .n_top = random_below(4)};
        s.logit_rows = random_below(3);
        assert_int_equal(wire_result_sample(r, &s, logprobs, logits, s.logit_rows * 32), 0);
    }
}

static void random_map(struct wire_map *m, uint32_t *start, uint16_t *rank)
{
    uint32_t n = 0;

    *m = (struct wire_map){.epoch = 3,
                           .layers = 1 + random_below(4),
                           .experts = 1 + random_below(8),
                           .ranks = 1 + random_below(6)};
    for (uint32_t p = 0; p < m->layers * m->experts; p++) {
        uint16_t primary = (uint16_t)random_below(m->ranks);
        start[p] = n;
        rank[n++] = primary;
        for (uint32_t r = 0; r < m->ranks; r++)
            if (r != primary && random_below(3) == 0)
                rank[n++] = (uint16_t)r;
    }
    start[m->layers * m->experts] = n;
    m->start = start;
    m->rank = rank;
}

/* --- properties ------------------------------------------------------------------------------- */

static void assert_steps_equal(const struct wire_step *a, const struct wire_step *b)
{
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->ranks, b->ranks);
    assert_int_equal(a->n_frees, b->n_frees);
    assert_int_equal(a->n_admits, b->n_admits);
    assert_int_equal(a->n_runs, b->n_runs);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_blocks, b->n_blocks);
    assert_memory_equal(a->rank_tokens, b->rank_tokens, a->ranks * sizeof *a->rank_tokens);
    for (uint32_t i = 0; i < a->n_frees; i++)
        assert_int_equal(a->frees[i], b->frees[i]);
    for (uint32_t i = 0; i < a->n_admits; i++) {
        assert_int_equal(a->admits[i].seq, b->admits[i].seq);
        assert_int_equal(a->admits[i].seed, b->admits[i].seed);
        assert_true(a->admits[i].top_p == b->admits[i].top_p);
    }
    for (uint32_t i = 0; i < a->n_runs; i++)
        assert_memory_equal(a->runs + i, b->runs + i, sizeof *a->runs);
    for (uint32_t i = 0; i < a->n_tokens; i++)
        assert_int_equal(a->tokens[i], b->tokens[i]);
    for (uint32_t i = 0; i < a->n_blocks; i++)
        assert_int_equal(a->blocks[i], b->blocks[i]);
}

static void test_step_round_trip(void **unused)
{
    struct wire_step in = {0}, out = {0};
    struct mt_err err;
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1 << 20);
    for (int i = 0; i < 500; i++) {
        size_t len;
        uint8_t *body;

        random_step(&in);
        buf_reset(&frame);
        assert_int_equal(wire_put_step(&frame, 7, &in), 0);
        body = body_of(&frame, &len);
        assert_int_equal(wire_get_step(body, len, &out, &err), 0);
        assert_steps_equal(&in, &out);
        free(body);
    }
    wire_step_done(&in);
    wire_step_done(&out);
    buf_done(&frame);
}

static void test_result_round_trip(void **unused)
{
    struct wire_result in = {0}, out = {0};
    struct mt_err err;
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1 << 20);
    for (int i = 0; i < 500; i++) {
        size_t len;
        uint8_t *body;

        random_result(&in);
        buf_reset(&frame);
        assert_int_equal(wire_put_result(&frame, 7, &in), 0);
        body = body_of(&frame, &len);
        assert_int_equal(wire_get_result(body, len, &out, &err), 0);
        assert_int_equal(in.n_samples, out.n_samples);
        assert_int_equal(in.n_logits, out.n_logits);
        for (uint32_t s = 0; s < in.n_samples; s++) {
            assert_int_equal(in.samples[s].token, out.samples[s].token);
            assert_int_equal(in.samples[s].logprob_at, out.samples[s].logprob_at);
        }
        for (uint32_t l = 0; l < in.n_logprobs; l++)
            assert_true(in.logprobs[l].logprob == out.logprobs[l].logprob);
        free(body);
    }
    wire_result_done(&in);
    wire_result_done(&out);
    buf_done(&frame);
}

static void test_map_round_trip(void **unused)
{
    static uint32_t start[64];
    static uint16_t rank[256];
    struct wire_map in, out = {0};
    struct mt_err err;
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1 << 20);
    for (int i = 0; i < 500; i++) {
        size_t len;
        uint8_t *body;

        random_map(&in, start, rank);
        buf_reset(&frame);
        assert_int_equal(wire_put_map(&frame, 7, &in), 0);
        body = body_of(&frame, &len);
        assert_int_equal(wire_get_map(body, len, &out, &err), 0);
        assert_int_equal(out.layers, in.layers);
        assert_memory_equal(out.start, start, (in.layers * in.experts + 1) * sizeof *start);
        assert_memory_equal(out.rank, rank, start[in.layers * in.experts] * sizeof *rank);
        free(body);
    }
    wire_map_done(&out);
    buf_done(&frame);
}

/* I1 and the shape of a map are checked at the door. */
static void test_map_refused(void **unused)
{
    uint32_t none[] = {0, 0}, one[] = {0, 1}, two[] = {0, 2};
    uint16_t high[] = {2}, twice[] = {1, 1}, good[] = {1, 0};
    struct {
        uint32_t *start;
        uint16_t *rank;
        int rc;
    } cases[] = {
        {none, good, MT_EPROTO}, {one, high, MT_EPROTO}, {two, twice, MT_EPROTO}, {two, good, 0}};
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wire_map m = {
            .layers = 1, .experts = 1, .ranks = 2, .start = cases[i].start, .rank = cases[i].rank};
        struct wire_map out = {0};
        struct mt_err err;
        size_t len;
        uint8_t *body;

        buf_reset(&frame);
        assert_int_equal(wire_put_map(&frame, 7, &m), 0);
        body = body_of(&frame, &len);
        assert_int_equal(wire_get_map(body, len, &out, &err), cases[i].rc);
        wire_map_done(&out);
        free(body);
    }
    buf_done(&frame);
}

/* Every prefix of a body, and a body with a byte more, is a protocol error. */
static void test_cut_bodies(void **unused)
{
    struct wire_step in = {0}, out = {0};
    struct mt_err err;
    struct buf frame;
    size_t len;
    uint8_t *body, *cut;

    (void)unused;
    buf_init(&frame, 1 << 20);
    random_step(&in);
    assert_int_equal(wire_put_step(&frame, 7, &in), 0);
    body = body_of(&frame, &len);
    for (size_t n = 0; n < len; n++) {
        cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, body, n);
        assert_int_equal(wire_get_step(cut, n, &out, &err), MT_EPROTO);
        free(cut);
    }
    cut = calloc(1, len + 1);
    assert_non_null(cut);
    memcpy(cut, body, len);
    assert_int_equal(wire_get_step(cut, len + 1, &out, &err), MT_EPROTO);
    free(cut);
    free(body);
    wire_step_done(&in);
    wire_step_done(&out);
    buf_done(&frame);
}

/* Damaged bytes: any answer but a crash, and an accepted frame keeps its promises. */
static void test_damaged_bodies(void **unused)
{
    struct wire_step in = {0}, out = {0};
    struct wire_result result = {0}, got = {0};
    struct mt_err err;
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1 << 20);
    for (int i = 0; i < 5000; i++) {
        bool is_step = i % 2;
        size_t len;
        uint8_t *body;

        buf_reset(&frame);
        if (is_step)
            random_step(&in), wire_put_step(&frame, 7, &in);
        else
            random_result(&result), wire_put_result(&frame, 7, &result);
        body = body_of(&frame, &len);
        for (int flips = 1 + (int)random_below(4); flips-- > 0;)
            body[random_below((uint32_t)len)] ^= (uint8_t)(1u << random_below(8));
        if (is_step && !wire_get_step(body, len, &out, &err)) {
            for (uint32_t r = 0; r < out.n_runs; r++)
                assert_in_range(out.runs[r].token_at, 0, out.n_tokens);
        } else if (!is_step && !wire_get_result(body, len, &got, &err)) {
            for (uint32_t s = 0; s < got.n_samples; s++)
                assert_true(got.samples[s].logprob_at +
                                got.samples[s].n_entries * (1 + got.samples[s].n_top) <=
                            got.n_logprobs);
        }
        free(body);
    }
    wire_step_done(&in);
    wire_step_done(&out);
    wire_result_done(&result);
    wire_result_done(&got);
    buf_done(&frame);
}

static void test_header_refused(void **unused)
{
    uint8_t bytes[WIRE_HEADER_BYTES];
    struct wire_header header;
    struct mt_err err;
    struct buf frame;

    (void)unused;
    buf_init(&frame, 1024);
    assert_int_equal(wire_put_empty(&frame, 7, WIRE_WAKE), 0);
    memcpy(bytes, frame.data, sizeof bytes);
    assert_int_equal(wire_get_header(bytes, &header, &err), 0);
    assert_int_equal(header.type, WIRE_WAKE);
    bytes[0] ^= 1;
    assert_int_equal(wire_get_header(bytes, &header, &err), MT_EPROTO);
    assert_non_null(strstr(err.text, "magic"));
    bytes[0] ^= 1;
    bytes[4] ^= 2;
    assert_int_equal(wire_get_header(bytes, &header, &err), MT_EPROTO);
    assert_non_null(strstr(err.text, "version"));
    bytes[4] ^= 2;
    bytes[11] = 0xff;
    assert_int_equal(wire_get_header(bytes, &header, &err), MT_EPROTO);
    assert_non_null(strstr(err.text, "body"));
    buf_done(&frame);
}

/* A frame that does not fit its buffer leaves nothing of itself behind. */
static void test_cap(void **unused)
{
    struct wire_hello hello = {.rank = 0, .ranks = 1};
    struct buf frame;

    (void)unused;
    buf_init(&frame, 64);
    assert_int_equal(wire_put_empty(&frame, 7, WIRE_WAKE), 0);
    assert_int_equal(wire_put_hello(&frame, 7, &hello), MT_ELIMIT);
    assert_int_equal(frame.len, WIRE_HEADER_BYTES);
    buf_done(&frame);
}

static void test_small_frames(void **unused)
{
    struct wire_hello hello = {.rank = 2,
                               .ranks = 4,
                               .pid = 99,
                               .facts = {.experts = 8, .topk = 2, .n_eos = 2}},
                      hello2;
    struct wire_ready ready = {.rank = 1,
                               .kv_blocks = 5,
                               .block_tokens = 16,
                               .max_tokens = 8,
                               .max_seqs = 3},
                      ready2;
    struct wire_heartbeat beat = {.rank = 1, .step = 5, .progress = 6, .rss_bytes = 7}, beat2;
    struct wire_text text = {.rank = 3, .level = -4, .text = "out of luck"}, text2;
    struct mt_err err;
    struct buf frame;
    size_t len;
    uint8_t *body;

    (void)unused;
    buf_init(&frame, 4096);
    wire_put_hello(&frame, 7, &hello);
    body = body_of(&frame, &len);
    assert_int_equal(wire_get_hello(body, len, &hello2, &err), 0);
    assert_memory_equal(&hello, &hello2, sizeof hello);
    free(body);
    buf_reset(&frame);
    wire_put_ready(&frame, 7, &ready);
    body = body_of(&frame, &len);
    assert_int_equal(wire_get_ready(body, len, &ready2, &err), 0);
    assert_int_equal(ready2.kv_blocks, 5);
    free(body);
    buf_reset(&frame);
    wire_put_heartbeat(&frame, 7, &beat);
    body = body_of(&frame, &len);
    assert_int_equal(wire_get_heartbeat(body, len, &beat2, &err), 0);
    assert_int_equal(beat2.rss_bytes, 7);
    free(body);
    buf_reset(&frame);
    wire_put_text(&frame, 7, WIRE_FAIL, &text);
    body = body_of(&frame, &len);
    assert_int_equal(wire_get_text(body, len, &text2, &err), 0);
    assert_string_equal(text2.text, "out of luck");
    assert_int_equal(text2.level, -4);
    free(body);
    buf_done(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_round_trip), cmocka_unit_test(test_result_round_trip),
        cmocka_unit_test(test_map_round_trip),  cmocka_unit_test(test_map_refused),
        cmocka_unit_test(test_cut_bodies),      cmocka_unit_test(test_damaged_bodies),
        cmocka_unit_test(test_header_refused),  cmocka_unit_test(test_cap),
        cmocka_unit_test(test_small_frames),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
