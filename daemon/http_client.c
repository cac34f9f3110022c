/* Who holds how many connections. A client is an IPv4 address, or an IPv6 network of 64 bits, which
 * is what one subscriber is given; connections of Unix sockets have none and are not counted.
 * libmicrohttpd's own limit per address closes without a word, knows no networks, and cannot leave
 * out this machine, where there may be a proxy. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <xxhash.h>

#include "daemon/http_impl.h"

void http_client_set(struct http_client *c, const struct sockaddr *at)
{
    *c = (struct http_client){0};
    if (at && at->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)at;

        memcpy(c->key, &in->sin_addr, sizeof in->sin_addr);
        c->length = sizeof in->sin_addr;
        c->local = c->key[0] == 127;
    } else if (at && at->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)at;
        const bool mapped = IN6_IS_ADDR_V4MAPPED(&in->sin6_addr);

        c->length = mapped ? 4 : 8;
        memcpy(c->key, in->sin6_addr.s6_addr + (mapped ? 12 : 0), c->length);
        c->local = mapped ? c->key[0] == 127 : IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
    }
}

/* 0: none. */
static uint32_t client_limit(const struct http *h, const struct http_client *c)
{
    const uint32_t all = h->options.max_connections;

    if (!c->length)
        return 0;
    if (h->options.max_client_connections)
        return h->options.max_client_connections;
    return c->local ? 0 : all - all / 4;
}

static struct conn_bucket *bucket_of(struct http *h, const struct http_client *c)
{
    return &h->clients[XXH64(c->key, c->length, 0) % HTTP_CLIENT_BUCKETS];
}

bool http_client_enter(struct conn *conn)
{
    const struct http_client *c = &conn->client;
    const uint32_t limit = client_limit(conn->http, c);
    struct conn_bucket *bucket;
    const struct conn *other;
    uint32_t n = 0;

    if (!limit)
        return true;
    bucket = bucket_of(conn->http, c);
    LIST_FOREACH(other, bucket, same_bucket)
        if (other->client.length == c->length && !memcmp(other->client.key, c->key, c->length))
            n++;
    if (n >= limit)
        return false;
    LIST_INSERT_HEAD(bucket, conn, same_bucket);
    conn->counted = true;
    return true;
}

void http_client_leave(struct conn *conn)
{
    if (conn->counted)
        LIST_REMOVE(conn, same_bucket);
    conn->counted = false;
}

/* Straight onto the socket, which is new and therefore takes it: libmicrohttpd would wait for a
 * request first, and so let the client hold what it must not have. */
void http_client_refuse(const struct conn *conn)
{
    static const char WHY[] = "too many connections from this address "
                              "(--max-connections-per-client)\n";
    char text[512];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
                     "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n\r\n%s",
                     sizeof WHY - 1, WHY);

    if (n > 0)
        send(conn->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(conn->fd, SHUT_RDWR);
}
