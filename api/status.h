/* Status codes and error text, the one return convention of the project.
 *
 * A function that can fail returns 0 or a negative `enum mt_status` and, on failure, fills a
 * caller-owned `struct mt_err` whose text says what was expected, what was found, and where.
 * Outputs named `ret_...` are untouched on failure. Libraries never log and never exit.
 * Thread-safe: no shared state. */
#ifndef MT_API_STATUS_H
#define MT_API_STATUS_H

enum mt_status {
    MT_OK = 0,
    MT_EINVAL = -1,       /* malformed or out-of-range input */
    MT_ENOMEM = -2,       /* an allocation failed */
    MT_EIO = -3,          /* the operating system refused; text has strerror */
    MT_ELIMIT = -4,       /* a declared cap was reached */
    MT_EUNSUPPORTED = -5, /* well-formed, but not something we do; named in the text */
    MT_ENOTFOUND = -6,
    MT_ETIMEOUT = -7,
    MT_ECLOSED = -8, /* the other side is gone, or we are stopping */
    MT_EPROTO = -9,  /* the other side broke the protocol */
    MT_EINTERNAL = -10,
};

#define MT_ERR_TEXT 512

struct mt_err {
    int status;
    char text[MT_ERR_TEXT]; /* NUL-terminated, one line, no trailing newline */
};

/* Formats text into *reterr (which may be NULL) and returns `status`, so that `return
 * mt_error(...)` works. */
int mt_error(struct mt_err *reterr, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Puts "prefix: " before the text that is already there; returns reterr->status (MT_EINTERNAL if
 * NULL). */
int mt_error_prefix(struct mt_err *reterr, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));

/* "invalid input", "out of memory", ...; never NULL. */
const char *mt_status_name(int status);

#endif
