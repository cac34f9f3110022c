#include "api/wire.h"

#include <stdlib.h>

#include "api/wire_codec.h"

int wire_finish(const struct wire_reader *r, const char *frame, struct mt_err *reterr)
{
    if (r->bad)
        return mt_error(reterr, MT_EPROTO, "%s frame: field %s is out of range or cut off", frame,
                        r->bad);
    if (r->left)
        return mt_error(reterr, MT_EPROTO, "%s frame: %zu bytes too many", frame, r->left);
    return 0;
}

size_t wire_begin(struct buf *out, uint64_t incarnation, enum wire_type type)
{
    size_t start = out->len;

    wire_w32(out, WIRE_MAGIC);
    wire_w32(out, WIRE_VERSION | (uint32_t)type << 16);
    wire_w32(out, 0); /* body length: wire_end */
    wire_w32(out, 0); /* reserved */
    wire_w64(out, incarnation);
    return start;
}

int wire_end(struct buf *out, size_t start)
{
    uint32_t body;

    if (!out->status && out->len - start - WIRE_HEADER_BYTES > WIRE_MAX_BODY)
        out->status = MT_ELIMIT;
    if (out->status) {
        out->len = start;
        return out->status;
    }
    body = (uint32_t)(out->len - start - WIRE_HEADER_BYTES);
    memcpy(out->data + start + 8, &body, sizeof body);
    return 0;
}

int wire_get_header(const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *ret,
                    struct mt_err *reterr)
{
    uint32_t word[4];

    memcpy(word, bytes, sizeof word);
    if (word[0] != WIRE_MAGIC)
        return mt_error(reterr, MT_EPROTO, "frame header: expected magic %08x, found %08x",
                        WIRE_MAGIC, word[0]);
    if ((word[1] & 0xffff) != WIRE_VERSION)
        return mt_error(reterr, MT_EPROTO, "frame header: expected version %d, found %u",
                        WIRE_VERSION, word[1] & 0xffff);
    if (word[2] > WIRE_MAX_BODY)
        return mt_error(reterr, MT_EPROTO, "frame header: body of %u bytes, the most is %u",
                        word[2], WIRE_MAX_BODY);
    ret->type = (uint16_t)(word[1] >> 16);
    ret->body = word[2];
    memcpy(&ret->incarnation, bytes + 16, sizeof ret->incarnation);
    return 0;
}

int wire_put_empty(struct buf *out, uint64_t incarnation, enum wire_type type)
{
    return wire_end(out, wire_begin(out, incarnation, type));
}

/* --- hello ------------------------------------------------------------------------------------ */

static void put_facts(struct buf *out, const struct wire_facts *f)
{
    buf_append(out, f->family, sizeof f->family);
    wire_w32(out, f->layers);
    wire_w32(out, f->moe_layers);
    wire_w32(out, f->experts);
    wire_w32(out, f->topk);
    wire_w32(out, f->hidden);
    wire_w32(out, f->vocab);
    wire_w32(out, f->max_positions);
    wire_w32(out, (uint32_t)f->bos);
    wire_w32(out, f->n_eos);
    buf_append(out, f->eos, f->n_eos * sizeof f->eos[0]);
    wire_w64(out, f->dense_bytes);
    wire_w64(out, f->expert_bytes);
    wire_w64(out, f->kv_bytes_per_token);
}

static void get_facts(struct wire_reader *r, struct wire_facts *f)
{
    wire_take(r, f->family, sizeof f->family, "family");
    f->family[sizeof f->family - 1] = 0;
    f->layers = wire_u32(r, WIRE_MAX_LAYERS, "layers");
    f->moe_layers = wire_u32(r, WIRE_MAX_LAYERS, "moe_layers");
    f->experts = wire_u32(r, WIRE_MAX_EXPERTS, "experts");
    f->topk = wire_u32(r, f->experts, "topk");
    f->hidden = wire_u32(r, 1u << 20, "hidden");
    f->vocab = wire_u32(r, 1u << 24, "vocab");
    f->max_positions = wire_u32(r, 1u << 24, "max_positions");
    f->bos = wire_i32(r, "bos");
    f->n_eos = wire_u32(r, WIRE_MAX_EOS, "n_eos");
    wire_take(r, f->eos, f->n_eos * sizeof f->eos[0], "eos");
    f->dense_bytes = wire_u64(r, "dense_bytes");
    f->expert_bytes = wire_u64(r, "expert_bytes");
    f->kv_bytes_per_token = wire_u64(r, "kv_bytes_per_token");
}

int wire_put_hello(struct buf *out, uint64_t incarnation, const struct wire_hello *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_HELLO);

    if (v->facts.n_eos > WIRE_MAX_EOS)
        out->status = out->status ? out->status : MT_ELIMIT;
    else {
        wire_w32(out, v->rank);
        wire_w32(out, v->ranks);
        wire_w64(out, (uint64_t)v->pid);
        buf_append(out, v->token, sizeof v->token);
        put_facts(out, &v->facts);
    }
    return wire_end(out, start);
}

int wire_get_hello(const uint8_t *body, size_t len, struct wire_hello *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    struct wire_hello v = {0};
    int rc;

    v.rank = wire_u32(&r, WIRE_MAX_RANKS - 1, "rank");
    v.ranks = wire_u32(&r, WIRE_MAX_RANKS, "ranks");
    v.pid = (int64_t)wire_u64(&r, "pid");
    wire_take(&r, v.token, sizeof v.token, "token");
    get_facts(&r, &v.facts);
    if (!r.bad && v.rank >= v.ranks)
        r.bad = "rank";
    rc = wire_finish(&r, "hello", reterr);
    if (!rc)
        *ret = v;
    return rc;
}

/* --- map -------------------------------------------------------------------------------------- */

int wire_put_map(struct buf *out, uint64_t incarnation, const struct wire_map *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_MAP);
    size_t pairs = (size_t)v->layers * v->experts;

    wire_w64(out, v->epoch);
    wire_w32(out, v->layers);
    wire_w32(out, v->experts);
    wire_w32(out, v->ranks);
    buf_append(out, v->start, (pairs + 1) * sizeof v->start[0]);
    buf_append(out, v->rank, v->start[pairs] * sizeof v->rank[0]);
    return wire_end(out, start);
}

/* The copies of one (layer, expert): at least one, ranks in range, none twice. */
static bool map_pair_ok(const struct wire_map *m, size_t pair)
{
    uint32_t first = m->start[pair], end = m->start[pair + 1];

    if (end <= first || end - first > m->ranks)
        return false;
    for (uint32_t i = first; i < end; i++) {
        if (m->rank[i] >= m->ranks || (i > first + 1 && m->rank[i] <= m->rank[i - 1]))
            return false;
        if (i > first && m->rank[i] == m->rank[first])
            return false;
    }
    return true;
}

static int map_read(struct wire_reader *r, struct wire_map *m)
{
    size_t pairs = (size_t)m->layers * m->experts;

    if (!m->layers || !m->experts || !m->ranks)
        r->bad = r->bad ? r->bad : "layers, experts or ranks";
    if (!wire_fits(r, pairs + 1, sizeof m->start[0], "start"))
        return 0;
    m->start = malloc((pairs + 1) * sizeof m->start[0]);
    if (!m->start)
        return MT_ENOMEM;
    wire_take(r, m->start, (pairs + 1) * sizeof m->start[0], "start");
    for (size_t i = 0; i < pairs && !r->bad; i++)
        if (m->start[i] > m->start[i + 1])
            r->bad = "start";
    if (!r->bad && m->start[0])
        r->bad = "start";
    if (!wire_fits(r, m->start[pairs], sizeof m->rank[0], "rank"))
        return 0;
    m->rank = malloc(m->start[pairs] * sizeof m->rank[0] + 1);
    if (!m->rank)
        return MT_ENOMEM;
    wire_take(r, m->rank, m->start[pairs] * sizeof m->rank[0], "rank");
    for (size_t i = 0; i < pairs && !r->bad; i++)
        if (!map_pair_ok(m, i))
            r->bad = "rank";
    return 0;
}

int wire_get_map(const uint8_t *body, size_t len, struct wire_map *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    struct wire_map m = {0};
    int rc;

    m.epoch = wire_u64(&r, "epoch");
    m.layers = wire_u32(&r, WIRE_MAX_LAYERS, "layers");
    m.experts = wire_u32(&r, WIRE_MAX_EXPERTS, "experts");
    m.ranks = wire_u32(&r, WIRE_MAX_RANKS, "ranks");
    rc = map_read(&r, &m);
    if (rc)
        mt_error(reterr, rc, "map frame: no memory for %u x %u experts", m.layers, m.experts);
    else
        rc = wire_finish(&r, "map", reterr);
    if (rc) {
        wire_map_done(&m);
        return rc;
    }
    wire_map_done(ret);
    *ret = m;
    return 0;
}

void wire_map_done(struct wire_map *m)
{
    if (!m)
        return;
    free(m->start);
    free(m->rank);
    *m = (struct wire_map){0};
}

/* --- ready, heartbeat, text ------------------------------------------------------------------- */

int wire_put_ready(struct buf *out, uint64_t incarnation, const struct wire_ready *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_READY);

    wire_w32(out, v->rank);
    wire_w32(out, v->kv_blocks);
    wire_w32(out, v->block_tokens);
    wire_w32(out, v->max_tokens);
    wire_w32(out, v->max_seqs);
    wire_w32(out, v->threads);
    wire_w32(out, v->load_ms);
    wire_w64(out, v->weight_bytes);
    buf_append(out, v->isa, sizeof v->isa);
    buf_append(out, v->numerics, sizeof v->numerics);
    return wire_end(out, start);
}

int wire_get_ready(const uint8_t *body, size_t len, struct wire_ready *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    struct wire_ready v = {0};
    int rc;

    v.rank = wire_u32(&r, WIRE_MAX_RANKS - 1, "rank");
    v.kv_blocks = wire_u32(&r, WIRE_MAX_STEP_BLOCKS, "kv_blocks");
    v.block_tokens = wire_u32(&r, 4096, "block_tokens");
    v.max_tokens = wire_u32(&r, WIRE_MAX_STEP_TOKENS, "max_tokens");
    v.max_seqs = wire_u32(&r, WIRE_MAX_SEQS, "max_seqs");
    v.threads = wire_u32(&r, 65536, "threads");
    v.load_ms = wire_u32(&r, UINT32_MAX, "load_ms");
    v.weight_bytes = wire_u64(&r, "weight_bytes");
    wire_take(&r, v.isa, sizeof v.isa, "isa");
    wire_take(&r, v.numerics, sizeof v.numerics, "numerics");
    v.isa[sizeof v.isa - 1] = 0;
    v.numerics[sizeof v.numerics - 1] = 0;
    if (!r.bad && (!v.kv_blocks || !v.block_tokens || !v.max_tokens || !v.max_seqs))
        r.bad = "kv_blocks, block_tokens, max_tokens or max_seqs";
    rc = wire_finish(&r, "ready", reterr);
    if (!rc)
        *ret = v;
    return rc;
}

int wire_put_heartbeat(struct buf *out, uint64_t incarnation, const struct wire_heartbeat *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_HEARTBEAT);

    wire_w32(out, v->rank);
    wire_w64(out, v->step);
    wire_w64(out, v->progress);
    wire_w64(out, v->rss_bytes);
    return wire_end(out, start);
}

int wire_get_heartbeat(const uint8_t *body, size_t len, struct wire_heartbeat *ret,
                       struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    struct wire_heartbeat v = {0};
    int rc;

    v.rank = wire_u32(&r, WIRE_MAX_RANKS - 1, "rank");
    v.step = wire_u64(&r, "step");
    v.progress = wire_u64(&r, "progress");
    v.rss_bytes = wire_u64(&r, "rss_bytes");
    rc = wire_finish(&r, "heartbeat", reterr);
    if (!rc)
        *ret = v;
    return rc;
}

int wire_put_text(struct buf *out, uint64_t incarnation, enum wire_type type,
                  const struct wire_text *v)
{
    size_t start = wire_begin(out, incarnation, type);
    uint32_t n = (uint32_t)strnlen(v->text, sizeof v->text - 1);

    wire_w32(out, v->rank);
    wire_w32(out, (uint32_t)v->level);
    wire_w32(out, n);
    buf_append(out, v->text, n);
    return wire_end(out, start);
}

int wire_get_text(const uint8_t *body, size_t len, struct wire_text *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    struct wire_text v = {0};
    uint32_t n;
    int rc;

    v.rank = wire_u32(&r, WIRE_MAX_RANKS - 1, "rank");
    v.level = wire_i32(&r, "level");
    n = wire_u32(&r, sizeof v.text - 1, "length");
    wire_take(&r, v.text, n, "text");
    v.text[n] = 0;
    rc = wire_finish(&r, "text", reterr);
    if (!rc)
        *ret = v;
    return rc;
}
