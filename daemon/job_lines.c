/* What mpirun and the workers write to standard output and error, as lines. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "daemon/job_impl.h"

#define LINES_CAP (16 << 10)

_Static_assert(JOB_LINE < MT_ERR_TEXT, "a line must fit an event's text");

void job_lines_init(struct job_lines *l, int level)
{
    *l = (struct job_lines){.fd = -1, .level = level};
    buf_init(&l->in, LINES_CAP);
}

void job_lines_open(struct job_lines *l, int fd)
{
    job_lines_close(l);
    buf_reset(&l->in);
    l->fd = fd;
}

/* Reads what fits; when the buffer is full the writer waits until lines have been taken. */
void job_lines_read(struct job_lines *l)
{
    size_t room = l->in.cap - l->in.len;
    uint8_t *at;
    ssize_t got;

    if (l->fd < 0 || !room)
        return;
    at = buf_grow(&l->in, room);
    if (!at) {
        buf_reset(&l->in); /* no memory: this output is lost, the job goes on */
        return;
    }
    got = read(l->fd, at, room);
    l->in.len -= room - (got > 0 ? (size_t)got : 0);
    if (!got || (got < 0 && errno != EAGAIN && errno != EINTR))
        job_lines_close(l);
}

bool job_lines_next(struct job_lines *l, char line[MT_ERR_TEXT])
{
    const uint8_t *end = l->in.len ? memchr(l->in.data, '\n', l->in.len) : NULL;
    size_t n = end ? (size_t)(end - l->in.data) : l->in.len, take = n + (end ? 1 : 0);

    if (n > JOB_LINE)
        n = take = JOB_LINE;
    else if (!end && (l->fd >= 0 || !n))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = l->in.data[i];

        line[i] = (char)(c < 32 || c == 127 ? ' ' : c);
    }
    line[n] = 0;
    buf_consume(&l->in, take);
    return true;
}

void job_lines_close(struct job_lines *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

void job_lines_done(struct job_lines *l)
{
    job_lines_close(l);
    buf_done(&l->in);
}
