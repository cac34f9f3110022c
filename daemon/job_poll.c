/* One poll(2) over everything that a job listens to. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/job_impl.h"

enum {
    AT_WAKE,
    AT_LISTEN,
    AT_PROCESS,
    AT_LINES,
    AT_PENDING = AT_LINES + 2,
    AT_RANKS = AT_PENDING + JOB_PENDING
};

_Static_assert(AT_RANKS == JOB_POLLS, "the poll array has room for all");

static struct job_link *free_slot(struct job *j)
{
    for (int i = 0; i < JOB_PENDING; i++)
        if (j->pending[i].fd < 0 && !j->pending[i].ended)
            return &j->pending[i];
    return NULL;
}

/* Somebody dials. Only our own user may; the process is held by a descriptor from now on. */
static void accept_one(struct job *j, struct job_link *slot)
{
    int fd = accept4(j->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred who;
    socklen_t n = sizeof who;

    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) || who.uid != geteuid()) {
        close(fd);
        return;
    }
    job_link_open(slot, fd);
    slot->pidfd = pidfd_open(who.pid, 0);
}

static void set(struct pollfd *p, int fd, int events)
{
    *p = (struct pollfd){.fd = fd, .events = (short)events};
}

static void prepare(struct job *j, int wake_fd)
{
    bool alive = j->state != JOB_IDLE;

    set(&j->polls[AT_WAKE], wake_fd, POLLIN);
    set(&j->polls[AT_LISTEN], alive && free_slot(j) ? j->listen : -1, POLLIN);
    set(&j->polls[AT_PROCESS], alive && !j->exited ? j->pidfd : -1, POLLIN);
    for (int i = 0; i < 2; i++)
        set(&j->polls[AT_LINES + i], j->lines[i].fd, POLLIN);
    for (int i = 0; i < JOB_PENDING; i++)
        set(&j->polls[AT_PENDING + i], j->pending[i].fd, POLLIN);
    for (uint32_t r = 0; r < j->options.ranks; r++)
        set(&j->polls[AT_RANKS + r], j->link[r].fd,
            POLLIN | (job_link_unsent(&j->link[r]) ? POLLOUT : 0));
}

static void serve_link(struct job_link *l, short got)
{
    /* A failed write is not an end: the last words of a rank may still wait to be read. */
    if ((got & POLLOUT) && job_link_write(l, NULL))
        buf_reset(&l->out), l->sent = 0;
    if ((got & (POLLIN | POLLHUP | POLLERR)) && job_link_read(l, NULL))
        job_link_end(l);
}

bool job_poll(struct job *j, int64_t timeout_ms, int wake_fd)
{
    int timeout = timeout_ms < 0 ? -1 : timeout_ms > INT_MAX ? INT_MAX : (int)timeout_ms;

    prepare(j, wake_fd);
    if (poll(j->polls, JOB_POLLS + j->options.ranks, timeout) <= 0)
        return false;
    if (j->polls[AT_PROCESS].revents)
        job_reap(j);
    for (int i = 0; i < 2; i++)
        if (j->polls[AT_LINES + i].revents)
            job_lines_read(&j->lines[i]);
    for (int i = 0; i < JOB_PENDING; i++)
        if (j->polls[AT_PENDING + i].revents)
            serve_link(&j->pending[i], j->polls[AT_PENDING + i].revents);
    for (uint32_t r = 0; r < j->options.ranks; r++)
        if (j->polls[AT_RANKS + r].revents)
            serve_link(&j->link[r], j->polls[AT_RANKS + r].revents);
    if (j->polls[AT_LISTEN].revents && free_slot(j))
        accept_one(j, free_slot(j));
    return j->polls[AT_WAKE].revents != 0;
}
