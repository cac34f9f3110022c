#!/usr/bin/env python3
"""Raw bytes that an HTTP server must refuse, and that nothing after them on the connection is read as a request.

Another program in front of the daemon may cut such bytes into requests differently; what is behind the first request
would then be a request that the proxy never saw (request smuggling)."""

import random
import re
import socket
import time
import unittest

import harness

SECOND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = b'{"prompt": "a", "max_tokens": 1}'
GET = b"GET /version HTTP/1.1\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def length(n, body=b"", more=b""):
    return POST + b"Content-Length: %s\r\n%s\r\n%s" % (n, more, body)


# what, bytes, the status it must have
REFUSED = [
    ("Content-Length and Transfer-Encoding",
     length(b"5", b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), 400),
    ("Transfer-Encoding and Content-Length",
     POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", length(b"5", b"12345", b"Content-Length: 40\r\n"), 400),
    ("two equal lengths", length(b"5", b"12345", b"Content-Length: 5\r\n"), 400),
    ("a list of lengths", length(b"5, 5", b"12345"), 400),
    ("unknown Transfer-Encoding", POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501),
    ("chunked in other words", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    ("chunked, then identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    ("chunked with a control character", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked by HTTP/1.0", CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", 400),
    ("a blank before the colon", POST + b"Content-Length : 5\r\n\r\n12345", 400),
    ("a tab before the colon", POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    ("Host with a blank before the colon", GET + b"Host : x\r\n\r\n", 400),
    ("no Host", GET + b"\r\n", 400),
    ("two Hosts", GET + b"Host: x\r\nHost: y\r\n\r\n", 400),
    ("a header without a name", GET + b"Host: x\r\n: y\r\n\r\n", 400),
    ("a header without a colon", GET + b"Host: x\r\nnonsense\r\n\r\n", 400),
    ("a folded header", GET + b"Host: x\r\nA: b\r\n c\r\n\r\n", 400),
    ("a folded length", POST + b"Content-Length:\r\n 5\r\n\r\n12345", 400),
    ("a length hidden in a fold", POST + b"A: b\r\n Content-Length: 5\r\n\r\n12345", 400),
    ("bare LF in headers", b"GET /version HTTP/1.1\nHost: x\n\n", 400),
    ("one bare LF", GET + b"Host: x\r\nA: b\nContent-Length: 5\r\n\r\n12345", 400),
    ("a bare LF after the request line", b"GET /version HTTP/1.1\nHost: x\r\n\r\n", 400),
    ("a bare CR in a value", GET + b"Host: x\r\nA: b\rContent-Length: 5\r\n\r\n", 400),
    ("NUL in a value", GET + b"Host: x\r\nA: b\0c\r\n\r\n", 400),
    ("NULs in a value", GET + b"Host: x\r\nA: b\0\0c: d\r\n\r\n", 400),
    ("NUL in a name", GET + b"Host: x\r\nA\0b: c\r\n\r\n", 400),
    ("NUL at the end of a value", GET + b"Host: x\r\nA: b\0\r\n\r\n", 400),
    ("NUL in the path", b"GET /version\0x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("%00 in the path", b"GET /version%00x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("a path without a slash", b"GET version HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("a negative length", length(b"-1"), 400),
    ("a length with a sign", length(b"+5", b"12345"), 400),
    ("a hexadecimal length", length(b"0x5", b"12345"), 400),
    ("no length", length(b"", b"12345"), 400),
    ("a length of 2^64", length(b"18446744073709551616"), 413),
    ("a length of 2^64 + 5", length(b"18446744073709551621", b"12345"), 413),
    ("a length of 2^63", length(b"9223372036854775808"), 413),
    ("a body over the cap", length(b"4097"), 413),
    ("a body over the cap, asked for first", length(b"4097", b"", b"Expect: 100-continue\r\n"), 413),
    ("a chunk over the cap", CHUNKED + b"1001\r\n" + b"a" * 4097 + b"\r\n0\r\n\r\n", 413),
    ("an unknown expectation", length(b"5", b"12345", b"Expect: miracles\r\n"), 417),
    ("a chunk without a size", CHUNKED + b"\r\n0\r\n\r\n", 400),
    ("a chunk size that is no number", CHUNKED + b"xyz\r\n", 400),
    ("a negative chunk size", CHUNKED + b"-1\r\n", 400),
    ("a chunk longer than its size", CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", 400),
    ("a chunk size of 2^64", CHUNKED + b"10000000000000000\r\na\r\n0\r\n\r\n", 413),
    ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/3.0", b"GET /version HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    ("HTTP/0.9", b"GET /version\r\n\r\n", 400),
    ("no version that is one", b"GET /version HTTX/1.1\r\nHost: x\r\n\r\n", 400),
    ("a huge header", GET + b"Host: x\r\nA: " + b"a" * 40000 + b"\r\n\r\n", 431),
    ("two thousand headers", GET + b"Host: x\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(2000)) + b"\r\n", 431),
    ("a long path", b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ("a huge path", b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ("a blank in the path", b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
]

ACCEPTED = [
    ("plain", GET + b"Host: x\r\n\r\n", 200),
    ("blanks around a value", GET + b"Host: \t x \t\r\nA:b\r\nB:\r\n\r\n", 200),
    ("many short headers", GET + b"Host: x\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(100)) + b"\r\n", 200),
    ("a long header", GET + b"Host: x\r\nA: " + b"a" * 20000 + b"\r\n\r\n", 200),
    ("a query", b"GET /version?a=b&c&=d HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ("cookies", GET + b"Host: x\r\nCookie: a=b; c=\"d\"\r\nCookie: e=f\r\n\r\n", 200),
    ("an empty line before", b"\r\n" + GET + b"Host: x\r\n\r\n", 200),
    ("a body", length(b"%d" % len(BODY), BODY), 200),
    ("chunks", CHUNKED + b"1\r\n" + BODY[:1] + b"\r\n%x;a=b\r\n" % (len(BODY) - 1) + BODY[1:] + b"\r\n0\r\n\r\n", 200),
    ("upper-case chunked", CHUNKED.replace(b"chunked", b"Chunked") + b"%X\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
     200),
]


def exchange(daemon, data):
    """All that comes back for bytes, until the server closes."""
    with socket.create_connection((daemon.host, daemon.port), timeout=30) as sock:
        try:
            sock.sendall(data)
        except OSError:
            pass  # it was answered and closed before all was sent
        return harness.read_all(sock)


def statuses(back):
    """Those of the answers in it."""
    found = [int(status) for status in re.findall(rb"HTTP/1\.\d (\d\d\d) ", back)]
    if b"<html>" in back and len(found) == 2 and found[0] == found[1]:
        return found[:1]  # libmicrohttpd's own page, which has its headers twice
    return found


class Abuse(unittest.TestCase):
    daemon = None

    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon("--max-body", "4096", "--receive-deadline", "5", ranks=1)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def test_refused(self):
        wrong = []
        for what, data, status in REFUSED:
            back = exchange(self.daemon, data + SECOND)
            found = statuses(back)
            if what == "TLS" and not back:
                continue  # closed without a word, which is as good
            if found != [status]:
                wrong.append(f"{what}: expected {status}, found {found or back[:200]}")
            elif b"smuggled" in back:
                wrong.append(f"{what}: {back[:200]}")
        for line in wrong:
            print("#", line)
        self.assertEqual(wrong, [])
        self.assertNotIn("smuggled", self.daemon.log())

    def test_accepted(self):
        for what, data, status in ACCEPTED:
            back = exchange(self.daemon, data + GET + b"Host: x\r\nConnection: close\r\n\r\n")
            self.assertEqual(statuses(back), [status, 200], what)

    def test_any_sane_head_in_any_pieces(self):
        """The check of a head's bytes takes whatever is well-formed, however it arrives."""
        draw = random.Random(7)
        for _ in range(60):
            with socket.create_connection((self.daemon.host, self.daemon.port), timeout=30) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                data, requests = b"", draw.randrange(1, 4)
                for index in range(requests):
                    headers = [b"Host: x"] + [b"X-%d:%s%s" % (n, draw.choice([b"", b" ", b"\t ", b"  "]),
                                                             draw.choice([b"", b"a", b"b c", b"\xff", b"z" * 500]))
                                              for n in range(draw.randrange(12))]
                    draw.shuffle(headers)
                    if index == requests - 1:
                        headers.append(b"Connection: close")
                    body = draw.choice([None, BODY, b"x" * 4096])
                    if body:
                        headers.append(b"Content-Length: %d" % len(body))
                    data += (b"POST /tokenize" if body else b"GET /version" + draw.choice([b"", b"?", b"?a=b&c=%00"]))
                    data += b" HTTP/1.1\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + (body or b"")
                while data:
                    n = draw.choice([1, 2, 7, 100, 5000])
                    sock.sendall(data[:n])
                    data = data[n:]
                    if draw.random() < 0.05:
                        time.sleep(0.001)
                back = b""
                while more := sock.recv(65536):
                    back += more
            found = statuses(back)
            self.assertEqual(len(found), requests)
            self.assertNotIn(b"malformed head", back)

    def test_shape(self):
        """What is refused is told in OpenAI's shape, where libmicrohttpd asks us."""
        for data in (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345", length(b"4097"),
                     GET + b"\r\n", GET + b"Host: x\r\nA: b\nC: d\r\n\r\n",
                     b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"DELETE /version HTTP/1.1\r\nHost: x\r\n\r\n"):
            back = exchange(self.daemon, data + SECOND)
            self.assertIn(b"application/json", back)
            self.assertIn(b'{"error":{"message":"', back)


if __name__ == "__main__":
    harness.main()
