/* Frames on one non-blocking socket. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/job_impl.h"

#define READ_CHUNK ((size_t)64 << 10)
#define READ_MOST \
    ((size_t)4 << 20) /* in one go, so that a talkative rank leaves time to the others */

void job_link_init(struct job_link *l, size_t out_cap)
{
    *l = (struct job_link){.fd = -1, .pidfd = -1};
    buf_init(&l->in, (size_t)WIRE_MAX_BODY + WIRE_HEADER_BYTES + READ_CHUNK);
    buf_init(&l->out, out_cap);
}

void job_link_open(struct job_link *l, int fd)
{
    job_link_close(l);
    l->fd = fd;
    l->since_ms = l->heard_ms = l->moved_ms = job_now_ms();
}

void job_link_end(struct job_link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->ended = true;
}

void job_link_close(struct job_link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    if (l->pidfd >= 0)
        close(l->pidfd);
    l->fd = l->pidfd = -1;
    l->ended = l->ready = false;
    l->progress = 0;
    l->sent = l->at = l->pop = 0;
    buf_reset(&l->in);
    buf_reset(&l->out);
}

void job_link_done(struct job_link *l)
{
    job_link_close(l);
    buf_done(&l->in);
    buf_done(&l->out);
}

static int read_some(struct job_link *l, size_t want, size_t *ret_got, struct mt_err *reterr)
{
    uint8_t *at = buf_grow(&l->in, want);
    ssize_t got;

    if (!at)
        return mt_error(reterr, l->in.status, "no memory for a frame of %zu bytes", want);
    got = recv(l->fd, at, want, MSG_DONTWAIT);
    l->in.len -= want - (got > 0 ? (size_t)got : 0);
    *ret_got = got > 0 ? (size_t)got : 0;
    if (got > 0)
        return 0;
    if (!got)
        return mt_error(reterr, MT_ECLOSED, "closed its connection");
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    return mt_error(reterr, MT_ECLOSED, "connection: %s", strerror(errno));
}

int job_link_read(struct job_link *l, struct mt_err *reterr)
{
    size_t got = 0, total = 0;
    int rc;

    buf_consume(&l->in, l->at + l->pop);
    l->at = l->pop = 0;
    do {
        rc = read_some(l, READ_CHUNK, &got, reterr);
        total += got;
        if (got)
            l->heard_ms = job_now_ms();
    } while (!rc && got == READ_CHUNK && total < READ_MOST &&
             l->in.len < WIRE_MAX_BODY + WIRE_HEADER_BYTES);
    return rc;
}

int job_link_write(struct job_link *l, struct mt_err *reterr)
{
    while (l->sent < l->out.len) {
        ssize_t n =
            send(l->fd, l->out.data + l->sent, l->out.len - l->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return mt_error(reterr, MT_ECLOSED, "connection: %s", strerror(errno));
        l->sent += (size_t)n;
    }
    if (l->sent >= l->out.len / 2) { /* seldom enough that moving the rest is cheap */
        buf_consume(&l->out, l->sent);
        l->sent = 0;
    }
    return 0;
}

bool job_link_unsent(const struct job_link *l)
{
    return l->fd >= 0 && l->sent < l->out.len;
}

int job_link_next(struct job_link *l, size_t max_body, struct wire_header *ret_header,
                  const uint8_t **ret_body, struct mt_err *reterr)
{
    struct wire_header h;
    int rc;

    l->at += l->pop;
    l->pop = 0;
    if (l->in.len - l->at < WIRE_HEADER_BYTES)
        return 0;
    rc = wire_get_header(l->in.data + l->at, &h, reterr);
    if (rc)
        return rc;
    if (h.body > max_body)
        return mt_error(reterr, MT_EPROTO, "frame of type %u: expected at most %zu bytes, found %u",
                        h.type, max_body, h.body);
    if (l->in.len - l->at < WIRE_HEADER_BYTES + (size_t)h.body)
        return 0;
    l->pop = WIRE_HEADER_BYTES + h.body;
    *ret_header = h;
    *ret_body = l->in.data + l->at + WIRE_HEADER_BYTES;
    return 1;
}
