#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/http.h"

#define BACKLOG 1024

static int socket_port(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char port[8];

    if (getsockname(fd, (struct sockaddr *)&at, &len) ||
        getnameinfo((struct sockaddr *)&at, len, NULL, 0, port, sizeof port, NI_NUMERICSERV))
        return 0;
    return (int)strtol(port, NULL, 10);
}

/* errno tells why not. */
static int listen_at(const struct sockaddr *at, socklen_t len, int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1, err;

    if (fd < 0)
        return -1;
    if (family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!bind(fd, at, len) && !listen(fd, BACKLOG))
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

int http_listen_tcp(const char *host, int port, int *ret_fd, int *ret_port, struct mt_err *reterr)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    char service[8];
    int fd = -1, err;

    snprintf(service, sizeof service, "%d", port);
    err = getaddrinfo(host, service, &hints, &list);
    if (err)
        return mt_error(reterr, MT_EINVAL, "cannot listen on host %s: %s", host, gai_strerror(err));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = listen_at(a->ai_addr, a->ai_addrlen, a->ai_family);
    err = errno;
    freeaddrinfo(list);
    if (fd < 0)
        return mt_error(reterr, MT_EIO, "cannot listen on %s port %d: %s", host, port,
                        strerror(err));
    *ret_fd = fd;
    *ret_port = socket_port(fd);
    return 0;
}

/* A socket file without a listener is what a killed daemon left behind. */
static bool unix_stale(const struct sockaddr_un *at)
{
    struct stat st;
    bool refused;
    int fd;

    if (lstat(at->sun_path, &st) || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    refused = connect(fd, (const struct sockaddr *)at, sizeof *at) && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

int http_listen_unix(const char *path, int *ret_fd, struct mt_err *reterr)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof at.sun_path)
        return mt_error(reterr, MT_EINVAL, "socket path %s: expected at most %zu bytes, found %zu",
                        path, sizeof at.sun_path - 1, strlen(path));
    memcpy(at.sun_path, path, strlen(path) + 1);
    if (unix_stale(&at))
        unlink(path);
    fd = listen_at((const struct sockaddr *)&at, sizeof at, AF_UNIX);
    if (fd < 0)
        return mt_error(reterr, MT_EIO, "cannot listen on the socket %s: %s", path,
                        strerror(errno));
    *ret_fd = fd;
    return 0;
}
