/* What each frame of a rank means. */
#include <string.h>

#include "daemon/job_impl.h"

static bool token_equal(const uint8_t *a, const uint8_t *b)
{
    unsigned different = 0;

    for (size_t i = 0; i < WIRE_TOKEN_BYTES; i++) /* as long for a near miss as for any other */
        different |= (unsigned)(a[i] ^ b[i]);
    return !different;
}

/* --- HELLO --- */

/* The map that rank 0 is given: the plan with the copies after the primary in ascending order, as
 * the wire wants. */
static int send_map(struct job *j, struct mt_err *reterr)
{
    const struct plan *p = job_plan(j);
    size_t pairs = (size_t)p->layers * p->experts;
    struct plan sorted;
    struct wire_map map;
    int rc = plan_copy(p, &sorted, reterr);

    if (rc)
        return rc;
    for (size_t i = 0; i < pairs; i++)
        for (uint32_t a = sorted.start[i] + 2; a < sorted.start[i + 1]; a++)
            for (uint32_t b = a; b > sorted.start[i] + 1 && sorted.rank[b] < sorted.rank[b - 1];
                 b--) {
                uint16_t swap = sorted.rank[b];

                sorted.rank[b] = sorted.rank[b - 1];
                sorted.rank[b - 1] = swap;
            }
    map = (struct wire_map){.epoch = JOB_FIRST_EPOCH,
                            .layers = p->layers,
                            .experts = p->experts,
                            .ranks = p->ranks,
                            .start = sorted.start,
                            .rank = sorted.rank};
    rc = wire_put_map(&j->link[0].out, j->incarnation, &map);
    if (rc)
        mt_error(reterr, rc, "placement map of %zu pairs: %s", pairs, mt_status_name(rc));
    else
        job_link_write(&j->link[0], NULL);
    plan_done(&sorted);
    return rc;
}

static int choose_plan(struct job *j, struct mt_err *reterr)
{
    const struct wire_facts *f = &j->facts;

    if (j->options.plan)
        return plan_check(j->options.plan, f->moe_layers, f->experts, j->options.ranks, reterr);
    plan_done(&j->plan);
    return plan_contiguous(f->moe_layers, f->experts, j->options.ranks, &j->plan, reterr);
}

static void check_facts(struct job *j, uint32_t rank, const struct wire_facts *f)
{
    const struct wire_facts *have = &j->facts;

    if (j->have_facts && (strcmp(f->family, have->family) || f->layers != have->layers ||
                          f->experts != have->experts || f->vocab != have->vocab ||
                          f->hidden != have->hidden || f->max_positions != have->max_positions))
        job_condemn(j, rank, true, MT_EPROTO,
                    "rank %u speaks of another model: expected %s with %u layers, %u experts, "
                    "vocabulary %u; found %s with %u, %u, %u",
                    rank, have->family, have->layers, have->experts, have->vocab, f->family,
                    f->layers, f->experts, f->vocab);
    if (!j->have_facts)
        j->facts = *f;
    j->have_facts = true;
}

/* A pending connection has proved who it is: it becomes its rank's link. */
static void join(struct job *j, struct job_link *from, const struct wire_hello *h)
{
    struct job_link *to = &j->link[h->rank], old = *to;
    struct buf out = to->out;
    struct mt_err err;
    int rc;

    *to = *from;
    *from = old;
    from->out = to->out; /* the buffers' caps belong to the places */
    to->out = out;
    to->heard_ms = to->moved_ms = job_now_ms();
    if (!h->facts.family[0])
        return; /* it could not read its model: its FAIL says why */
    check_facts(j, h->rank, &h->facts);
    if (h->rank || j->state != JOB_STARTING)
        return;
    rc = choose_plan(j, &err);
    if (!rc)
        rc = send_map(j, &err);
    if (rc)
        job_condemn(j, UINT32_MAX, true, rc, "%s", err.text);
}

/* True: the connection is its rank's now. Whoever cannot prove the token is dropped and harms
 * nobody. */
static bool greet_one(struct job *j, struct job_link *l, bool *ret_waits)
{
    struct wire_hello h = {0};
    struct wire_header header;
    const uint8_t *body;
    int rc = job_link_next(l, JOB_HELLO_MAX, &header, &body, NULL);

    *ret_waits = !rc && !l->ended && job_now_ms() - l->since_ms < JOB_HELLO_MS;
    if (rc <= 0 || header.type != WIRE_HELLO || header.incarnation != j->incarnation ||
        wire_get_hello(body, header.body, &h, NULL) || !token_equal(h.token, j->token))
        return false;
    if (h.ranks != j->options.ranks || h.rank >= h.ranks || j->link[h.rank].fd >= 0) {
        job_condemn(j, UINT32_MAX, true, MT_EPROTO,
                    "hello: expected each of %u ranks once, found rank %u of %u%s",
                    j->options.ranks, h.rank, h.ranks,
                    h.rank < h.ranks && h.ranks == j->options.ranks ? " again" : "");
        return false;
    }
    join(j, l, &h);
    return true;
}

bool job_frames_greet(struct job *j)
{
    bool joined = false;

    for (int i = 0; i < JOB_PENDING; i++) {
        struct job_link *l = &j->pending[i];
        bool waits = false;

        if (l->fd < 0 && !l->ended)
            continue;
        joined |= greet_one(j, l, &waits);
        if (!waits)
            job_link_close(l);
    }
    return joined;
}

/* --- the other frames --- */

static bool on_ready(struct job *j, uint32_t rank, const uint8_t *body, uint32_t len,
                     struct job_event *ret, struct mt_err *reterr)
{
    struct wire_ready r;

    if (wire_get_ready(body, len, &r, reterr))
        return false;
    if (r.rank != rank || j->link[rank].ready) {
        mt_error(reterr, MT_EPROTO, "ready frame: expected rank %u once, found rank %u", rank,
                 r.rank);
        return false;
    }
    j->ready[rank] = r;
    j->link[rank].ready = true;
    if (++j->n_ready < j->options.ranks || j->state != JOB_STARTING)
        return false;
    j->state = JOB_RUNNING;
    j->step_ms = job_now_ms();
    j->said[0] = j->block[0] = 0; /* what it said while starting explains no later death */
    *ret = (struct job_event){.type = JOB_READY};
    return true;
}

static bool on_result(struct job *j, uint32_t rank, const uint8_t *body, uint32_t len,
                      struct job_event *ret, struct mt_err *reterr)
{
    if (rank) {
        mt_error(reterr, MT_EPROTO, "result frame: expected from rank 0 only");
        return false;
    }
    if (wire_get_result(body, len, &j->result, reterr))
        return false;
    if (j->result.step != j->answered + 1 || j->answered == j->sent ||
        j->result.ranks != j->options.ranks) {
        mt_error(reterr, MT_EPROTO,
                 "result frame: expected step %llu of %u ranks (%llu sent), found %llu of %u",
                 (unsigned long long)j->answered + 1, j->options.ranks, (unsigned long long)j->sent,
                 (unsigned long long)j->result.step, j->result.ranks);
        return false;
    }
    j->answered++;
    j->step_ms = job_now_ms();
    *ret = (struct job_event){.type = JOB_RESULT};
    return true;
}

static void on_heartbeat(struct job *j, uint32_t rank, const uint8_t *body, uint32_t len,
                         struct mt_err *reterr)
{
    struct job_link *l = &j->link[rank];
    struct wire_heartbeat h;

    if (wire_get_heartbeat(body, len, &h, reterr) || h.progress == l->progress)
        return;
    l->progress = h.progress;
    l->moved_ms = job_now_ms();
}

static bool on_text(struct job *j, uint32_t rank, uint16_t type, const uint8_t *body, uint32_t len,
                    struct job_event *ret, struct mt_err *reterr)
{
    struct wire_text t;

    if (wire_get_text(body, len, &t, reterr))
        return false;
    if (type == WIRE_FAIL) {
        job_condemn(j, rank, true, t.level < 0 ? t.level : MT_EINTERNAL, "rank %u: %s", rank,
                    t.text);
        return false;
    }
    *ret = (struct job_event){.type = JOB_LOG, .rank = rank};
    mt_error(&ret->err, t.level, "%s", t.text);
    return true;
}

/* True: *ret is an event. A frame that is wrong condemns the job. */
static bool take_frame(struct job *j, uint32_t rank, const struct wire_header *h,
                       const uint8_t *body, struct job_event *ret)
{
    struct mt_err err = {0};
    bool event = false;

    if (h->incarnation != j->incarnation)
        return false;
    switch (h->type) {
    case WIRE_READY: event = on_ready(j, rank, body, h->body, ret, &err); break;
    case WIRE_RESULT: event = on_result(j, rank, body, h->body, ret, &err); break;
    case WIRE_HEARTBEAT: on_heartbeat(j, rank, body, h->body, &err); break;
    case WIRE_LOG:
    case WIRE_FAIL: event = on_text(j, rank, h->type, body, h->body, ret, &err); break;
    default: mt_error(&err, MT_EPROTO, "frame of type %u: expected another from a rank", h->type);
    }
    if (err.status)
        job_condemn(j, rank, true, err.status, "rank %u: %s", rank, err.text);
    return event;
}

bool job_frames_next(struct job *j, struct job_event *ret)
{
    for (uint32_t r = 0; r < j->options.ranks; r++) {
        struct job_link *l = &j->link[r];
        struct wire_header header;
        const uint8_t *body;
        struct mt_err err;
        int rc;

        while ((rc = job_link_next(l, WIRE_MAX_BODY, &header, &body, &err)) > 0)
            if (take_frame(j, r, &header, body, ret))
                return true;
        if (rc < 0) {
            job_condemn(j, r, true, rc, "rank %u: %s", r, err.text);
            job_link_end(l);
            buf_reset(&l->in);
            l->at = l->pop = 0;
        } else if (l->ended) {
            /* While they start, mpirun ends all because of one: who was seen to go first means
             * nothing. */
            job_condemn(j, j->state == JOB_RUNNING ? r : UINT32_MAX, false, MT_ECLOSED,
                        "rank %u closed its connection", r);
        }
    }
    return false;
}
