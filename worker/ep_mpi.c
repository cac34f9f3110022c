/* The transport over MPI, in host memory: point-to-point messages, one to each peer and direction
 * in a layer.
 *
 * A dispatch message is a header {rows, pairs} and a record for each row: local slots, in fast mode
 * weights, then the hidden vector (float32, or bf16 in fast mode). A peer without tokens in this
 * step sends none, which every rank knows from the step frame; so receives are posted before
 * anything is sent, and nothing needs a probe. Results come back in the order in which the rows
 * went out, so they carry no header. */
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/ep.h"

enum { TAG_POST = 1, TAG_GATHER, TAG_DISPATCH, TAG_COMBINE };

#define HEADER_BYTES 16

struct message_header {
    uint32_t rows, pairs;
};

struct peer {
    uint8_t *out, *in;    /* dispatch messages: HEADER_BYTES + max_tokens records */
    uint32_t rows, pairs; /* sent to it in this layer */
    uint32_t *back; /* [max_tokens*topk] what comes back: pair index (exact) or token (fast) */
    uint32_t got_rows, got_pairs; /* received from it */
    uint32_t last;                /* the token whose row was appended last, + 1 */
    uint32_t tokens;              /* it has in this step */
};

struct ep_mpi {
    struct ep base;
    uint32_t *node;
    struct peer *peer;    /* [ranks] */
    size_t record;        /* bytes */
    uint8_t *results;     /* [max_tokens*topk][hidden] what comes back, by peer */
    uint8_t *partial;     /* [max_rows][hidden] bf16 partial sums, fast mode */
    MPI_Request *request; /* [2*ranks] */
};

static int mpi_failed(int rc, const char *what, struct mt_err *reterr)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    MPI_Error_string(rc, text, &n);
    return mt_error(reterr, MT_EIO, "%s: %s", what, text);
}

#define CHECK(call) \
    do { \
        int rc_ = (call); \
        if (rc_ != MPI_SUCCESS) \
            return mpi_failed(rc_, #call, reterr); \
    } while (0)

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* NaN stays one */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* --- control ---------------------------------------------------------------------------------- */

/* Waits until all have taken it: they are polling, or about to, and a rank that idles afterwards
 * makes no progress for a message that is still under way. */
static int mpi_post(struct ep *base, const uint8_t *bytes, size_t len, struct mt_err *reterr)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;

    if (len > INT_MAX)
        return mt_error(reterr, MT_ELIMIT, "cannot pass on a frame of %zu bytes", len);
    for (uint32_t r = 1; r < base->ranks; r++)
        CHECK(MPI_Isend(bytes, (int)len, MPI_BYTE, (int)r, TAG_POST, MPI_COMM_WORLD,
                        &ep->request[r]));
    CHECK(MPI_Waitall((int)base->ranks - 1, ep->request + 1, MPI_STATUSES_IGNORE));
    return 0;
}

static int mpi_poll(struct ep *base, struct buf *out, bool *ret_got, struct mt_err *reterr)
{
    MPI_Status status;
    int got = 0, n = 0;
    uint8_t *at;

    (void)base;
    CHECK(MPI_Iprobe(0, TAG_POST, MPI_COMM_WORLD, &got, &status));
    if (!got) {
        *ret_got = false;
        return 0;
    }
    CHECK(MPI_Get_count(&status, MPI_BYTE, &n));
    buf_reset(out);
    at = buf_grow(out, (size_t)n);
    if (!at)
        return mt_error(reterr, MT_ENOMEM, "no memory for a frame of %d bytes from rank 0", n);
    CHECK(MPI_Recv(at, n, MPI_BYTE, 0, TAG_POST, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    *ret_got = true;
    return 0;
}

static int mpi_gather(struct ep *base, const struct buf *mine, struct buf *all,
                      struct mt_err *reterr)
{
    if (base->rank) {
        CHECK(MPI_Send(mine->data, (int)mine->len, MPI_BYTE, 0, TAG_GATHER, MPI_COMM_WORLD));
        return 0;
    }
    for (uint32_t r = 1; r < base->ranks; r++) {
        MPI_Status status;
        uint32_t len;
        int n = 0;
        uint8_t *at;

        CHECK(MPI_Probe((int)r, TAG_GATHER, MPI_COMM_WORLD, &status));
        CHECK(MPI_Get_count(&status, MPI_BYTE, &n));
        len = (uint32_t)n;
        buf_append(all, &len, sizeof len);
        at = buf_grow(all, len);
        if (!at)
            return mt_error(reterr, MT_ENOMEM, "no memory for %d bytes of results of rank %u", n,
                            r);
        CHECK(MPI_Recv(at, n, MPI_BYTE, (int)r, TAG_GATHER, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    }
    return 0;
}

/* --- dispatch --------------------------------------------------------------------------------- */

static int mpi_begin(struct ep *base, const uint32_t *rank_tokens, struct mt_err *reterr)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;

    for (uint32_t r = 0; r < base->ranks; r++) {
        if (rank_tokens[r] > base->shape.max_tokens)
            return mt_error(reterr, MT_EPROTO, "step gives rank %u %u tokens, the most is %u", r,
                            rank_tokens[r], base->shape.max_tokens);
        ep->peer[r].tokens = rank_tokens[r];
    }
    return 0;
}

/* The parts of record i of a dispatch message. Slots and weights may be unaligned for their type
 * only on paper: the record size is a multiple of 4. */
struct record {
    int32_t *slot;
    float *weight; /* fast mode */
    void *payload;
};

static struct record record_at(const struct ep_mpi *ep, uint8_t *message, uint32_t i)
{
    uint8_t *at = message + HEADER_BYTES + i * ep->record;
    uint32_t topk = ep->base.shape.topk;
    bool fast = ep->base.shape.numerics == NUMERICS_FAST;

    return (struct record){
        .slot = (int32_t *)at,
        .weight = (float *)(at + topk * sizeof(int32_t)),
        .payload = at + topk * (sizeof(int32_t) + (fast ? sizeof(float) : 0)),
    };
}

static void row_pack(const struct ep_mpi *ep, void *payload, const float *x)
{
    uint16_t *half = payload;

    if (ep->base.shape.numerics == NUMERICS_EXACT) {
        memcpy(payload, x, ep->base.shape.hidden * sizeof *x);
        return;
    }
    for (uint32_t d = 0; d < ep->base.shape.hidden; d++)
        half[d] = to_bf16(x[d]);
}

static void row_unpack(const struct ep_mpi *ep, float *x, const void *payload)
{
    const uint16_t *half = payload;

    if (ep->base.shape.numerics == NUMERICS_EXACT) {
        memcpy(x, payload, ep->base.shape.hidden * sizeof *x);
        return;
    }
    for (uint32_t d = 0; d < ep->base.shape.hidden; d++)
        x[d] = from_bf16(half[d]);
}

/* Appends token i's row to the message of each distinct remote rank that serves one of its pairs.
 */
static void dispatch_pack_token(struct ep_mpi *ep, const struct ep_exchange *x, uint32_t i)
{
    const struct ep_shape *shape = &ep->base.shape;

    for (uint32_t j = 0; j < shape->topk; j++) {
        size_t pair = (size_t)i * shape->topk + j;
        uint32_t rank = x->rank[pair];
        struct peer *p = ep->peer + rank;
        struct record record;

        if (rank == ep->base.rank)
            continue;
        if (p->last != i + 1) { /* first pair of this token there */
            record = record_at(ep, p->out, p->rows);
            for (uint32_t c = 0; c < shape->topk; c++)
                record.slot[c] = -1;
            row_pack(ep, record.payload, x->x + (size_t)i * shape->hidden);
            if (shape->numerics == NUMERICS_FAST) {
                memset(record.weight, 0, shape->topk * sizeof *record.weight);
                p->back[p->rows] = i;
            }
            p->rows++;
            p->last = i + 1;
        }
        record = record_at(ep, p->out, p->rows - 1);
        record.slot[j] = x->slot[pair];
        if (shape->numerics == NUMERICS_FAST)
            record.weight[j] = x->weight[pair];
        else
            p->back[p->pairs] = (uint32_t)pair;
        p->pairs++;
    }
}

static void dispatch_own(const struct ep_mpi *ep, struct ep_exchange *x)
{
    size_t pairs = (size_t)x->n * ep->base.shape.topk;

    for (size_t i = 0; i < pairs; i++) {
        x->row_slot[i] = x->rank[i] == ep->base.rank ? x->slot[i] : -1;
        x->row_weight[i] = x->weight[i];
    }
    x->rows = x->n;
}

static int dispatch_unpack(struct ep_mpi *ep, struct ep_exchange *x, uint32_t source, size_t got,
                           struct mt_err *reterr)
{
    const struct ep_shape *shape = &ep->base.shape;
    struct peer *p = ep->peer + source;
    struct message_header header;

    memcpy(&header, p->in, sizeof header);
    if (got < HEADER_BYTES || got != HEADER_BYTES + header.rows * ep->record ||
        header.rows > p->tokens)
        return mt_error(reterr, MT_EPROTO,
                        "dispatch from rank %u: %zu bytes do not hold its %u rows", source, got,
                        header.rows);
    for (uint32_t i = 0; i < header.rows; i++) {
        struct record record = record_at(ep, p->in, i);
        size_t at = (size_t)(x->rows + i) * shape->topk;

        memcpy(x->row_slot + at, record.slot, shape->topk * sizeof *record.slot);
        if (shape->numerics == NUMERICS_FAST)
            memcpy(x->row_weight + at, record.weight, shape->topk * sizeof *record.weight);
        row_unpack(ep, x->x + (size_t)(x->rows + i) * shape->hidden, record.payload);
    }
    x->rows += header.rows;
    p->got_rows = header.rows;
    p->got_pairs = header.pairs;
    return 0;
}

static int mpi_dispatch(struct ep *base, struct ep_exchange *x, struct mt_err *reterr)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;
    MPI_Request *recv = ep->request, *send = ep->request + base->ranks;
    uint64_t start;

    for (uint32_t r = 0; r < base->ranks; r++) {
        struct peer *p = ep->peer + r;
        p->rows = p->pairs = p->got_rows = p->got_pairs = p->last = 0;
        recv[r] = send[r] = MPI_REQUEST_NULL;
        if (r != base->rank && p->tokens)
            CHECK(MPI_Irecv(p->in, (int)(HEADER_BYTES + p->tokens * ep->record), MPI_BYTE, (int)r,
                            TAG_DISPATCH, MPI_COMM_WORLD, &recv[r]));
    }
    for (uint32_t i = 0; i < x->n; i++)
        dispatch_pack_token(ep, x, i);
    for (uint32_t r = 0; r < base->ranks && x->n; r++) {
        struct peer *p = ep->peer + r;
        struct message_header header = {p->rows, p->pairs};

        if (r == base->rank)
            continue;
        memcpy(p->out, &header, sizeof header);
        CHECK(MPI_Isend(p->out, (int)(HEADER_BYTES + p->rows * ep->record), MPI_BYTE, (int)r,
                        TAG_DISPATCH, MPI_COMM_WORLD, &send[r]));
    }
    dispatch_own(ep, x);
    for (uint32_t r = 0; r < base->ranks; r++) {
        MPI_Status status;
        int got = 0, rc;

        if (recv[r] == MPI_REQUEST_NULL)
            continue;
        start = now_ns();
        CHECK(MPI_Wait(&recv[r], &status));
        x->wait_ns += now_ns() - start;
        CHECK(MPI_Get_count(&status, MPI_BYTE, &got));
        rc = dispatch_unpack(ep, x, r, (size_t)got, reterr);
        if (rc)
            return rc;
    }
    start = now_ns();
    CHECK(MPI_Waitall((int)base->ranks, send, MPI_STATUSES_IGNORE));
    x->wait_ns += now_ns() - start;
    return 0;
}

/* --- combine ---------------------------------------------------------------------------------- */

/* Puts what came back from one peer where it belongs. */
static void combine_unpack(const struct ep_mpi *ep, struct ep_exchange *x, const struct peer *p,
                           const uint8_t *results)
{
    uint32_t hidden = ep->base.shape.hidden;

    if (ep->base.shape.numerics == NUMERICS_EXACT) {
        const float *y = (const float *)results;
        for (uint32_t i = 0; i < p->pairs; i++)
            memcpy(x->y + (size_t)p->back[i] * hidden, y + (size_t)i * hidden, hidden * sizeof *y);
        return;
    }
    for (uint32_t i = 0; i < p->rows; i++) {
        const uint16_t *half = (const uint16_t *)results + (size_t)i * hidden;
        float *sum = x->sum + (size_t)p->back[i] * hidden;
        for (uint32_t d = 0; d < hidden; d++)
            sum[d] += from_bf16(half[d]);
    }
}

static int mpi_combine(struct ep *base, struct ep_exchange *x, struct mt_err *reterr)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;
    MPI_Request *recv = ep->request, *send = ep->request + base->ranks;
    bool exact = base->shape.numerics == NUMERICS_EXACT;
    size_t row = base->shape.hidden * (exact ? sizeof(float) : sizeof(uint16_t));
    size_t halves = exact ? 0 : (size_t)(x->rows - x->n) * base->shape.hidden;
    const uint8_t *from =
        exact ? (const uint8_t *)(x->y + (size_t)x->n * base->shape.topk * base->shape.hidden)
              : ep->partial;
    uint8_t *to = ep->results;
    uint64_t start;

    for (size_t i = 0; i < halves; i++)
        ((uint16_t *)ep->partial)[i] = to_bf16(x->partial[i]);
    for (uint32_t r = 0; r < base->ranks; r++) {
        const struct peer *p = ep->peer + r;
        size_t out = row * (exact ? p->got_pairs : p->got_rows),
               in = row * (exact ? p->pairs : p->rows);

        recv[r] = send[r] = MPI_REQUEST_NULL;
        if (in)
            CHECK(MPI_Irecv(to, (int)in, MPI_BYTE, (int)r, TAG_COMBINE, MPI_COMM_WORLD, &recv[r]));
        if (out)
            CHECK(
                MPI_Isend(from, (int)out, MPI_BYTE, (int)r, TAG_COMBINE, MPI_COMM_WORLD, &send[r]));
        to += in;
        from += out;
    }
    start = now_ns();
    CHECK(MPI_Waitall((int)(2 * base->ranks), ep->request, MPI_STATUSES_IGNORE));
    x->wait_ns += now_ns() - start;
    to = ep->results;
    for (uint32_t r = 0; r < base->ranks; r++) {
        const struct peer *p = ep->peer + r;
        combine_unpack(ep, x, p, to);
        to += row * (exact ? p->pairs : p->rows);
    }
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

/* Frees what mpi_reserve made. */
static void mpi_release(struct ep_mpi *ep)
{
    for (uint32_t r = 0; ep->peer && r < ep->base.ranks; r++) {
        free(ep->peer[r].out);
        free(ep->peer[r].in);
        free(ep->peer[r].back);
        ep->peer[r] = (struct peer){0};
    }
    free(ep->results);
    free(ep->partial);
    ep->results = ep->partial = NULL;
}

static void mpi_close(struct ep *base)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;
    int finalized = 1;

    MPI_Finalized(&finalized);
    if (!finalized)
        MPI_Finalize();
    mpi_release(ep);
    free(ep->peer);
    free(ep->node);
    free(ep->request);
    free(ep);
}

static int peers_reserve(struct ep_mpi *ep, size_t message, struct mt_err *reterr)
{
    size_t pairs = (size_t)ep->base.shape.max_tokens * ep->base.shape.topk;

    for (uint32_t r = 0; r < ep->base.ranks; r++) {
        struct peer *p = ep->peer + r;
        if (r == ep->base.rank)
            continue;
        p->out = malloc(message);
        p->in = malloc(message);
        p->back = malloc(pairs * sizeof *p->back);
        if (!p->out || !p->in || !p->back)
            return mt_error(reterr, MT_ENOMEM, "no memory for messages of %zu bytes to %u ranks",
                            message, ep->base.ranks - 1);
    }
    return 0;
}

static int mpi_reserve(struct ep *base, struct mt_err *reterr)
{
    struct ep_mpi *ep = (struct ep_mpi *)base;
    const struct ep_shape *shape = &ep->base.shape;
    bool fast = shape->numerics == NUMERICS_FAST;
    size_t payload = shape->hidden * (fast ? sizeof(uint16_t) : sizeof(float));
    size_t message, results;

    mpi_release(ep);
    ep->record =
        (shape->topk * (sizeof(int32_t) + (fast ? sizeof(float) : 0)) + payload + 3) & ~(size_t)3;
    message = HEADER_BYTES + shape->max_tokens * ep->record;
    results = (size_t)shape->max_tokens * shape->topk * payload;
    if (message > INT_MAX || results > INT_MAX)
        return mt_error(reterr, MT_ELIMIT,
                        "%u tokens in a step make messages over 2 GiB: lower --step-tokens",
                        shape->max_tokens);
    ep->results = malloc(results);
    ep->partial = fast ? malloc(ep_max_rows(&ep->base) * payload) : NULL;
    if (!ep->results || (fast && !ep->partial))
        return mt_error(reterr, MT_ENOMEM, "no memory for %zu bytes of expert results", results);
    return peers_reserve(ep, message, reterr);
}

/* Numbers the hosts in the order of their lowest rank. */
static int nodes_find(struct ep_mpi *ep, struct mt_err *reterr)
{
    MPI_Comm host;
    uint32_t lowest = ep->base.rank, nodes = 0;

    CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, (int)lowest, MPI_INFO_NULL,
                              &host));
    CHECK(MPI_Bcast(&lowest, 1, MPI_UINT32_T, 0, host));
    CHECK(MPI_Comm_free(&host));
    CHECK(MPI_Allgather(&lowest, 1, MPI_UINT32_T, ep->node, 1, MPI_UINT32_T, MPI_COMM_WORLD));
    for (uint32_t r = 0; r < ep->base.ranks; r++)
        ep->node[r] = ep->node[r] == r ? nodes++ : ep->node[ep->node[r]];
    return 0;
}

static const struct ep_ops mpi_ops = {
    .name = "mpi",
    .close = mpi_close,
    .reserve = mpi_reserve,
    .post = mpi_post,
    .poll = mpi_poll,
    .gather = mpi_gather,
    .begin = mpi_begin,
    .dispatch = mpi_dispatch,
    .combine = mpi_combine,
};

int ep_open_mpi(int *argc, char ***argv, struct ep **ret, struct mt_err *reterr)
{
    struct ep_mpi *ep = calloc(1, sizeof *ep);
    int provided = 0, rank = 0, ranks = 0, rc;

    if (!ep)
        return mt_error(reterr, MT_ENOMEM, "no memory for the transport");
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
        provided < MPI_THREAD_FUNNELED) {
        free(ep);
        return mt_error(reterr, MT_EUNSUPPORTED, "MPI does not grant MPI_THREAD_FUNNELED");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    ep->base = (struct ep){.op = &mpi_ops, .rank = (uint32_t)rank, .ranks = (uint32_t)ranks};
    ep->node = calloc((size_t)ranks, sizeof *ep->node);
    ep->peer = calloc((size_t)ranks, sizeof *ep->peer);
    ep->request = calloc((size_t)ranks * 2, sizeof *ep->request);
    if (!ep->node || !ep->peer || !ep->request)
        rc = mt_error(reterr, MT_ENOMEM, "no memory for %d ranks", ranks);
    else {
        ep->base.node = ep->node;
        rc = nodes_find(ep, reterr);
    }
    if (rc) {
        mpi_close(&ep->base);
        return rc;
    }
    *ret = &ep->base;
    return 0;
}
