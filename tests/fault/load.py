"""Load without libraries: many HTTP exchanges in one thread, cheap enough to share two cores with what it measures.

Requests are bytes made beforehand (format_request), each exchange has a connection of its own (Exchange), and one Loop
drives all of them with one selector and one heap of timers. Times are of time.monotonic()."""

import collections
import errno
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness  # noqa: E402 - found by the line above

CHUNK = 1 << 16
TOKENS = b'"token_ids":['  # what an event has that brings tokens, in calls with return_token_ids


def format_request(method, path, body=None):
    """The bytes of a request; body: None, bytes as they are, or what becomes JSON."""
    if body is None:
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Exchange:
    """A request and its answer. on_end(exchange) is called once: at the answer's end, or with error set."""

    def __init__(self, request, on_end, tag=None, mark=b"data: "):
        self.request, self.on_end, self.tag, self.mark = request, on_end, tag, mark
        self.sock, self.unsent = None, request
        self.began = self.first = self.last = self.ended = None  # first, last: progress (mark) or end
        self.status, self.headers, self.chunked, self.left = None, {}, False, None
        self.raw, self.body, self.error = bytearray(), bytearray(), None

    def feed(self, data, now):
        """Takes what was received; true at the answer's end. A wrong answer raises ValueError."""
        self.raw += data
        if self.status is None and not self.take_head():
            return False
        had = len(self.body)
        end = self.take_chunks() if self.chunked else self.take_plain()
        # a comment that keeps a connection alive is no progress
        if end or self.status == 200 and self.body.find(self.mark, had) >= 0:
            self.first, self.last = self.first or now, now
        return end

    def take_head(self):
        at = self.raw.find(b"\r\n\r\n")
        if at < 0:
            return False
        lines = self.raw[:at].decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        del self.raw[:at + 4]
        if self.status == 100:
            self.status, self.headers = None, {}
            return self.take_head()
        self.chunked = self.headers.get("transfer-encoding") == "chunked"
        if not self.chunked:
            self.left = int(self.headers["content-length"])
        return True

    def take_plain(self):
        self.body += self.raw
        self.raw.clear()
        if len(self.body) > self.left:
            raise ValueError(f"{len(self.body)} bytes of {self.left}")
        return len(self.body) == self.left

    def take_chunks(self):
        at = 0
        while True:
            line = self.raw.find(b"\r\n", at)
            if line < 0:
                break
            size = int(self.raw[at:line], 16)
            if len(self.raw) < line + 4 + size:
                break
            if self.raw[line + 2 + size:line + 4 + size] != b"\r\n":
                raise ValueError("a chunk is longer than it says")
            self.body += self.raw[line + 2:line + 2 + size]
            at = line + 4 + size
            if not size:
                return True
        del self.raw[:at]
        return False

    def events(self):
        """What a stream has brought so far, as parsed JSON without [DONE]; whole events only."""
        found = []
        for event in bytes(self.body).split(b"\n\n")[:-1]:
            for line in event.split(b"\n"):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    found.append(json.loads(line[6:]))
        return found

    def problem(self, stream):
        """None if the answer is a whole and good one, else what is wrong."""
        if self.error:
            return self.error
        if self.status != 200:
            return f"{self.status}: {bytes(self.body[:200]).decode(errors='replace').strip()}"
        if not stream:
            return None
        if not self.body.endswith(b"data: [DONE]\n\n"):
            return "the stream ended without [DONE]"
        for event in self.events():
            if "error" in event:
                return "error event: " + event["error"]["message"][:200]
        return None


class Loop:
    """Drives exchanges and timers. bound: seconds after which an exchange counts as stuck (its error says so)."""

    def __init__(self, daemon, bound=harness.PATIENCE):
        self.address, self.bound = (daemon.host, daemon.port), bound
        self.selector = selectors.DefaultSelector()
        self.timers, self.order = [], itertools.count()
        self.open = collections.OrderedDict()  # by age
        self.started = 0

    def start(self, exchange):
        self.started += 1
        exchange.began = time.monotonic()
        exchange.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.open[exchange] = True
        self.selector.register(sock, selectors.EVENT_WRITE, exchange)
        code = sock.connect_ex(self.address)
        if code not in (0, errno.EINPROGRESS):
            self.end(exchange, os.strerror(code))
        return exchange

    def end(self, exchange, error=None):
        """Closes the connection and tells; what is ended already stays as it is."""
        if exchange.ended is not None:
            return
        exchange.error, exchange.ended = error, time.monotonic()
        del self.open[exchange]
        self.selector.unregister(exchange.sock)
        exchange.sock.close()
        exchange.on_end(exchange)

    def at(self, when, call):
        heapq.heappush(self.timers, (when, next(self.order), call))

    def after(self, seconds, call):
        self.at(time.monotonic() + seconds, call)

    def every(self, seconds, call):
        def again():
            call()
            self.after(seconds, again)
        self.after(seconds, again)

    def write(self, exchange):
        sent = exchange.sock.send(exchange.unsent)
        exchange.unsent = exchange.unsent[sent:]
        if not exchange.unsent:
            self.selector.modify(exchange.sock, selectors.EVENT_READ, exchange)

    def read(self, exchange, now):
        data = exchange.sock.recv(CHUNK)
        if not data:
            self.end(exchange, f"closed by the server after {len(exchange.body)} bytes, status {exchange.status}")
        elif exchange.feed(data, now):
            self.end(exchange)

    def serve(self, exchange, events, now):
        try:
            if events & selectors.EVENT_WRITE:
                self.write(exchange)
            else:
                self.read(exchange, now)
        except BlockingIOError:
            pass
        except ConnectionError as error:
            # a refusal may come before the request has gone: it is there to be read
            try:
                while exchange.ended is None:
                    self.read(exchange, now)
            except OSError:
                self.end(exchange, str(error))
        except (ValueError, KeyError, IndexError) as error:
            self.end(exchange, f"not HTTP: {error!r}")

    def turn(self, most=1.0):
        """Waits at most so long for something to do, and does it."""
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()
        wait = min(most, max(0, self.timers[0][0] - time.monotonic())) if self.timers else most
        ready = self.selector.select(wait)
        now = time.monotonic()
        for key, events in ready:
            if key.data.ended is None:
                self.serve(key.data, events, now)
        while self.open:
            oldest = next(iter(self.open))
            if now - oldest.began < self.bound:
                break
            self.end(oldest, f"stuck: no end within {self.bound} s")

    def run(self, condition, patience=None, most=1.0):
        """Turns until the condition holds; false if it did not in time."""
        end = time.monotonic() + patience if patience is not None else None
        while not condition():
            if end and time.monotonic() > end:
                return False
            self.turn(most)
        return True

    def run_for(self, seconds, most=1.0):
        end = time.monotonic() + seconds
        self.run(lambda: time.monotonic() >= end, None, min(most, max(seconds, 0.001)))

    def close(self):
        for exchange in list(self.open):
            exchange.on_end = lambda exchange: None
            self.end(exchange, "the test is over")
        self.selector.close()


# --- deterministic calls ---------------------------------------------------------------------------------------------


def deterministic_calls(scale=1):
    """(path, body): calls that have one answer only, of all kinds. scale: how long their answers are."""
    draw = random.Random(7)
    prompts, calls = harness.prompts(), []
    for i in range(32):
        prompt = draw.choice(prompts)[:draw.randrange(4, 400)]
        body = {"max_tokens": int(scale * draw.randrange(24, 120)), "return_token_ids": True}
        chat = i % 5 == 4
        if chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if i % 2:
            body.update(temperature=0.8, top_p=0.95, seed=1000 + i)
        else:
            body["temperature"] = 0
        if i % 3:
            body["ignore_eos"] = True
        if i % 8 == 1:
            body["n"] = 2
        if i % 8 == 3:
            body.update({"logprobs": True, "top_logprobs": 3} if chat else {"logprobs": 3})
        if i % 8 == 5 and not chat:
            body.update(echo=True, logprobs=2)
        if i % 8 == 7:
            body["stop"] = ["the", "\n\n", "ing"][:1 + i % 3]
        calls.append(("/v1/chat/completions" if chat else "/v1/completions", body))
    # several prompts in one call; one that takes many steps to read and repeats itself
    calls.append(("/v1/completions", {"prompt": prompts[:3], "max_tokens": int(20 * scale), "temperature": 0,
                                      "return_token_ids": True}))
    calls.append(("/v1/completions", {"prompt": [5 + i % 900 for i in range(1200)], "max_tokens": int(40 * scale),
                                      "temperature": 0.8, "seed": 3, "top_k": 40, "ignore_eos": True,
                                      "return_token_ids": True}))
    return calls


def with_stream(body):
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def join(have, piece):
    """Adds the piece of a stream to what there is: texts and lists grow, and objects member by member."""
    if have is None:
        return piece
    if piece is None:
        return have
    if isinstance(have, dict):
        return {name: join(have.get(name), piece.get(name)) for name in {**have, **piece}}
    return have + piece if isinstance(have, (str, list)) else piece


def empty_to_none(value):
    """Members that a stream has no occasion to send are the same as absent."""
    if isinstance(value, dict):
        kept = {name: empty_to_none(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member not in (None, "", [], {})}
    return value


def answer_of(exchange, stream):
    """What must be the same each time, streamed or not: choices by index, and usage without cached_tokens."""
    events = exchange.events() if stream else [json.loads(bytes(exchange.body))]
    choices, usage, prompt = {}, None, None
    for event in events:
        usage = event.get("usage") or usage
        prompt = event.get("prompt_token_ids") or prompt
        for choice in event["choices"]:
            piece = {name: member for name, member in choice.items() if name not in ("index", "delta", "message")}
            piece["text"] = choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content")
            finish = piece.pop("finish_reason")
            joined = join(choices.get(choice["index"]), piece)
            joined["finish_reason"] = finish
            choices[choice["index"]] = joined
    usage = {name: n for name, n in (usage or {}).items() if name != "prompt_tokens_details"}
    return {"choices": {index: empty_to_none(choice) for index, choice in sorted(choices.items())},
            "prompt_token_ids": prompt, "usage": usage}


def difference(want, got, at=""):
    """Where two answers differ first, as text; None: nowhere."""
    if isinstance(want, dict) and isinstance(got, dict):
        for name in list(want) + [name for name in got if name not in want]:
            found = difference(want.get(name), got.get(name), f"{at}/{name}")
            if found:
                return found
        return None
    if isinstance(want, list) and isinstance(got, list):
        for i, (a, b) in enumerate(zip(want, got)):
            if a != b:
                return difference(a, b, f"{at}/{i}")
    return None if want == got else f"{at}: expected {str(want)[:80]!r}, found {str(got)[:80]!r}"


class Catalogue:
    """Calls with their answers, recorded while nothing disturbs, both streamed and not."""

    def __init__(self, scale=1):
        self.calls = deterministic_calls(scale)
        self.requests = [[format_request("POST", path, body), format_request("POST", path, with_stream(body))]
                         for path, body in self.calls]
        self.answers = []

    def choices(self, index):
        body = self.calls[index][1]
        prompt = body.get("prompt")
        return body.get("n", 1) * (len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1)

    def prompts(self, index):
        return self.choices(index) // self.calls[index][1].get("n", 1)

    def ask_all(self, loop, stream):
        ended = []
        exchanges = [loop.start(Exchange(requests[stream], ended.append)) for requests in self.requests]
        if not loop.run(lambda: len(ended) == len(exchanges), harness.PATIENCE):
            raise AssertionError(f"undisturbed: {len(exchanges) - len(ended)} calls are not answered")
        for (path, body), exchange in zip(self.calls, exchanges):
            if exchange.problem(stream):
                raise AssertionError(f"undisturbed: {path} {body}: {exchange.problem(stream)}")
        return [answer_of(exchange, stream) for exchange in exchanges]

    def record(self, loop):
        self.answers = self.ask_all(loop, False)
        for index, streamed in enumerate(self.ask_all(loop, True)):
            found = difference(self.answers[index], streamed)
            if found:
                raise AssertionError(f"undisturbed, streamed: {self.calls[index]}: {found}")

    def check(self, index, exchange, stream):
        """None, or what is wrong with an answer to call `index`: (its kind, text)."""
        problem = exchange.problem(stream)
        if problem:
            return "failed", problem
        found = difference(self.answers[index], answer_of(exchange, stream))
        return ("differs", found) if found else None


class ClosedLoop:
    """Clients that each have one call of a catalogue in flight, always. Every fourth is not streamed."""

    def __init__(self, loop, catalogue, clients, seed):
        self.loop, self.catalogue = loop, catalogue
        self.draw = random.Random(seed)
        self.current = [None] * clients
        self.moved = [0.0] * clients  # when an answer of each ended well
        self.done = 0
        self.wrong = collections.Counter()
        self.samples = []  # the first things that went wrong
        self.stopping = False
        for client in range(clients):
            self.next(client)

    def streams(self, client):
        return client % 4 != 3

    def next(self, client):
        if self.stopping:
            self.current[client] = None
            return
        index = self.draw.randrange(len(self.catalogue.calls))
        stream = self.streams(client)
        exchange = Exchange(self.catalogue.requests[index][stream], self.ended, (client, index), TOKENS)
        self.current[client] = exchange
        self.loop.start(exchange)

    def ended(self, exchange):
        client, index = exchange.tag
        wrong = self.catalogue.check(index, exchange, self.streams(client))
        if wrong:
            self.current[client] = None
            self.wrong[wrong[0]] += 1
            if len(self.samples) < 10:
                self.samples.append(f"call {index} of client {client}: {wrong[1]}")
            # whoever is refused does not ask again at once
            self.loop.after(0.05, lambda: self.next(client))
        else:
            self.done += 1
            self.moved[client] = exchange.last
            self.next(client)

    def streaming(self):
        """Clients with a stream in flight."""
        return [client for client, exchange in enumerate(self.current) if exchange and self.streams(client)]

    def last_move(self, client):
        """When this client last received a token, or the end of a good answer."""
        exchange = self.current[client]
        return max(self.moved[client], exchange.last or 0 if exchange else 0)

    def finish(self, patience=harness.PATIENCE):
        self.stopping = True
        return self.loop.run(lambda: not any(self.current), patience)


# --- numbers ---------------------------------------------------------------------------------------------------------


def percentile(values, share):
    """The value that this share (0 to 1) of all does not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def summary(values, scale=1000, digits=0):
    """n, min, median, p90, p99, max; by default milliseconds of seconds."""
    if not values:
        return {"n": 0}
    row = {"min": min(values), "median": percentile(values, 0.5), "p90": percentile(values, 0.9),
           "p99": percentile(values, 0.99), "max": max(values)}
    return {"n": len(values), **{name: round(scale * value, digits) for name, value in row.items()}}


def linear_fit(points):
    """(value at the first, slope) of the least-squares line through (x, y)."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0
    return mean_y + slope * (points[0][0] - mean_x), slope


def flat_row(samples):
    """What there is to say of memory: (x, KiB) samples as first and last of the fitted line, least and most."""
    start, slope = linear_fit(samples)
    values = [value for _, value in samples]
    return {"fit_first": round(start), "fit_last": round(start + slope * (samples[-1][0] - samples[0][0])),
            "min": min(values), "max": max(values)}


def not_flat(row):
    """None if memory is flat, else why not. Flat: the fitted line rises by less than 5 % or 4 MiB, whichever is more,
    and the most is no more above the least than twice that."""
    room = max(4096, 0.05 * row["fit_first"])
    if row["fit_last"] - row["fit_first"] >= room:
        return f"it grows by {row['fit_last'] - row['fit_first']} KiB, {room:.0f} are allowed: {row}"
    if row["max"] - row["min"] >= 2 * room:
        return f"it varies by {row['max'] - row['min']} KiB, {2 * room:.0f} are allowed: {row}"
    return None
