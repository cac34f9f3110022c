#include "worker/link.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_FRAMES 8 /* the daemon sends at most WIRE_MAX_AHEAD steps and a shutdown */

struct frame {
    struct wire_header header;
    uint8_t *body;
};

struct link {
    int fd, event, stop; /* socket; eventfds to the main thread and to this one */
    uint64_t incarnation;
    uint32_t rank;
    pthread_t thread;
    bool started;
    void (*lost)(const struct mt_err *why);
    _Atomic uint64_t step, progress;

    pthread_mutex_t send_lock; /* one frame at a time on the socket */
    pthread_mutex_t lock;      /* the queue */
    struct frame queue[QUEUE_FRAMES];
    unsigned first, n;
};

/* --- dialling --------------------------------------------------------------------------------- */

static int dial_unix(const char *path, struct mt_err *reterr)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof address.sun_path)
        return mt_error(reterr, MT_EINVAL, "socket path of %zu bytes, the most is %zu: %s",
                        strlen(path), sizeof address.sun_path - 1, path);
    memcpy(address.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        mt_error(reterr, MT_EIO, "cannot reach the daemon at %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return MT_EIO;
    }
    return fd;
}

static int dial_tcp(const char *host_port, struct mt_err *reterr)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    const char *colon = strrchr(host_port, ':');
    char host[256];
    int fd = -1, one = 1, rc;

    if (!colon || (size_t)(colon - host_port) >= sizeof host)
        return mt_error(reterr, MT_EINVAL, "expected tcp:HOST:PORT, found tcp:%s", host_port);
    snprintf(host, sizeof host, "%.*s", (int)(colon - host_port), host_port);
    rc = getaddrinfo(host, colon + 1, &hints, &list);
    if (rc)
        return mt_error(reterr, MT_EIO, "cannot resolve %s: %s", host_port, gai_strerror(rc));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return mt_error(reterr, MT_EIO, "cannot reach the daemon at %s: %s", host_port,
                        strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    return fd;
}

int link_open(const char *address, uint64_t incarnation, const struct wire_hello *hello,
              struct link **ret, struct mt_err *reterr)
{
    struct link *l;
    struct buf out;
    int fd, rc;

    if (!strncmp(address, "unix:", 5))
        fd = dial_unix(address + 5, reterr);
    else if (!strncmp(address, "tcp:", 4))
        fd = dial_tcp(address + 4, reterr);
    else
        return mt_error(reterr, MT_EINVAL,
                        "--connect: expected unix:PATH or tcp:HOST:PORT, found %s", address);
    if (fd < 0)
        return fd;
    l = calloc(1, sizeof *l);
    if (!l) {
        close(fd);
        return mt_error(reterr, MT_ENOMEM, "no memory for the control link");
    }
    l->fd = fd;
    l->incarnation = incarnation;
    l->rank = hello->rank;
    l->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&l->send_lock, NULL);
    pthread_mutex_init(&l->lock, NULL);
    buf_init(&out, 4096);
    if (l->event < 0 || l->stop < 0)
        rc = mt_error(reterr, MT_EIO, "cannot make an event descriptor: %s", strerror(errno));
    else if (wire_put_hello(&out, incarnation, hello))
        rc = mt_error(reterr, out.status, "cannot encode the hello frame");
    else
        rc = link_send(l, &out, reterr);
    buf_done(&out);
    if (rc) {
        link_close(l);
        return rc;
    }
    *ret = l;
    return 0;
}

/* --- sending ---------------------------------------------------------------------------------- */

int link_send(struct link *l, const struct buf *frames, struct mt_err *reterr)
{
    size_t at = 0;
    int rc = 0;

    pthread_mutex_lock(&l->send_lock);
    while (at < frames->len && !rc) {
        ssize_t n = send(l->fd, frames->data + at, frames->len - at, MSG_NOSIGNAL);
        if (n >= 0)
            at += (size_t)n;
        else if (errno != EINTR)
            rc = mt_error(reterr, MT_ECLOSED, "cannot send to the daemon: %s", strerror(errno));
    }
    pthread_mutex_unlock(&l->send_lock);
    return rc;
}

void link_say(struct link *l, enum wire_type type, int level, const char *text)
{
    struct wire_text v = {.rank = l->rank, .level = level};
    struct buf out;

    snprintf(v.text, sizeof v.text, "%s", text);
    buf_init(&out, 4096);
    if (!wire_put_text(&out, l->incarnation, type, &v))
        link_send(l, &out, NULL);
    buf_done(&out);
}

static uint64_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long size, resident = 0;

    if (f) {
        if (fscanf(f, "%llu %llu", &size, &resident) != 2)
            resident = 0;
        fclose(f);
    }
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int heartbeat_send(struct link *l)
{
    struct wire_heartbeat v = {
        .rank = l->rank, .step = l->step, .progress = l->progress, .rss_bytes = resident_bytes()};
    struct buf out;
    int rc;

    buf_init(&out, 4096);
    rc = wire_put_heartbeat(&out, l->incarnation, &v);
    if (!rc)
        rc = link_send(l, &out, NULL);
    buf_done(&out);
    return rc;
}

/* --- receiving -------------------------------------------------------------------------------- */

static int read_all(struct link *l, void *bytes, size_t n, struct mt_err *reterr)
{
    size_t at = 0;

    while (at < n) {
        ssize_t got = recv(l->fd, (char *)bytes + at, n - at, 0);
        if (got > 0)
            at += (size_t)got;
        else if (got == 0)
            return mt_error(reterr, MT_ECLOSED, "the daemon closed the control link");
        else if (errno != EINTR)
            return mt_error(reterr, MT_EIO, "cannot read from the daemon: %s", strerror(errno));
    }
    return 0;
}

static void wake_main(struct link *l)
{
    uint64_t one = 1;

    if (write(l->event, &one, sizeof one) < 0)
        return; /* the counter is full: main is awake */
}

static int queue_put(struct link *l, const struct wire_header *header, uint8_t *body,
                     struct mt_err *reterr)
{
    int rc = 0;

    pthread_mutex_lock(&l->lock);
    if (l->n == QUEUE_FRAMES)
        rc = mt_error(reterr, MT_EPROTO, "the daemon sent more than %d frames ahead", QUEUE_FRAMES);
    else
        l->queue[(l->first + l->n++) % QUEUE_FRAMES] = (struct frame){*header, body};
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static int frame_receive(struct link *l, struct mt_err *reterr)
{
    uint8_t bytes[WIRE_HEADER_BYTES], *body;
    struct wire_header header;
    int rc = read_all(l, bytes, sizeof bytes, reterr);

    if (!rc)
        rc = wire_get_header(bytes, &header, reterr);
    if (rc)
        return rc;
    body = malloc(header.body + (size_t)1);
    if (!body)
        return mt_error(reterr, MT_ENOMEM, "no memory for a frame of %u bytes", header.body);
    rc = read_all(l, body, header.body, reterr);
    if (!rc && header.incarnation == l->incarnation && header.type != WIRE_WAKE)
        rc = queue_put(l, &header, body, reterr);
    else
        free(body), body = NULL;
    if (rc)
        free(body);
    else
        wake_main(l);
    return rc;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void *link_main(void *arg)
{
    struct link *l = arg;
    struct pollfd fds[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = l->stop, .events = POLLIN}};
    uint64_t next = now_ms();
    struct mt_err err = {0};

    for (;;) {
        uint64_t now = now_ms();
        if (now >= next) {
            if (heartbeat_send(l)) {
                mt_error(&err, MT_ECLOSED, "the daemon closed the control link");
                break;
            }
            next = now + WIRE_HEARTBEAT_MS;
        }
        if (poll(fds, 2, (int)(next - now)) < 0 && errno != EINTR)
            continue;
        if (fds[1].revents)
            return NULL;
        if (fds[0].revents && frame_receive(l, &err))
            break;
    }
    l->lost(&err);
    return NULL;
}

int link_start(struct link *l, void (*lost)(const struct mt_err *why), struct mt_err *reterr)
{
    int rc;

    l->lost = lost;
    rc = pthread_create(&l->thread, NULL, link_main, l);
    if (rc)
        return mt_error(reterr, MT_EIO, "cannot start the control thread: %s", strerror(rc));
    l->started = true;
    return 0;
}

void link_close(struct link *l)
{
    uint64_t one = 1;

    if (!l)
        return;
    if (l->started && write(l->stop, &one, sizeof one) == (ssize_t)sizeof one)
        pthread_join(l->thread, NULL);
    for (; l->n; l->n--, l->first++)
        free(l->queue[l->first % QUEUE_FRAMES].body);
    if (l->event >= 0)
        close(l->event);
    if (l->stop >= 0)
        close(l->stop);
    close(l->fd);
    pthread_mutex_destroy(&l->send_lock);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* --- the main thread's side ------------------------------------------------------------------- */

bool link_take(struct link *l, struct wire_header *ret_header, uint8_t **ret_body)
{
    bool got;

    pthread_mutex_lock(&l->lock);
    got = l->n > 0;
    if (got) {
        *ret_header = l->queue[l->first].header;
        *ret_body = l->queue[l->first].body;
        l->first = (l->first + 1) % QUEUE_FRAMES;
        l->n--;
    }
    pthread_mutex_unlock(&l->lock);
    return got;
}

bool link_wait(struct link *l, int timeout_ms)
{
    struct pollfd fd = {.fd = l->event, .events = POLLIN};
    uint64_t count;

    return poll(&fd, 1, timeout_ms) > 0 &&
           read(l->event, &count, sizeof count) == (ssize_t)sizeof count;
}

void link_progress(struct link *l)
{
    l->progress++;
}

void link_step(struct link *l, uint64_t step)
{
    l->step = step;
    l->progress++;
}
