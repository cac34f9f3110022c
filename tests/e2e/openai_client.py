#!/usr/bin/env python3
"""The API as the openai package uses it."""

import unittest

import harness

try:
    import openai
except ImportError:
    openai = None

GREEDY = {"model": "tiny", "temperature": 0}
START = "In the beginning God"


@unittest.skipUnless(openai, "the openai package is not installed (pip install openai)")
class OpenaiClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon()
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.daemon.port}/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.daemon.close()

    def complete(self, prompt=START, **parameters):
        return self.client.completions.create(prompt=prompt, **{**GREEDY, "max_tokens": 24, **parameters})

    def chat(self, **parameters):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who was Moses?"}]
        return self.client.chat.completions.create(messages=messages, **{**GREEDY, "max_tokens": 12, **parameters})

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.client.models.retrieve("tiny").object, "model")

    def test_completion(self):
        reply = self.complete()
        self.assertEqual(reply.object, "text_completion")
        self.assertEqual(reply.choices[0].finish_reason, "length")
        self.assertEqual(reply.usage.completion_tokens, 24)
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens + 24)
        self.assertTrue(reply.choices[0].text)

    def test_completion_stream(self):
        whole = self.complete()
        chunks = list(self.complete(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "length")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_lists_and_token_ids(self):
        texts = [choice.text for choice in self.complete([START, "SELECT"]).choices]
        self.assertEqual(texts[0], self.complete().choices[0].text)
        self.assertEqual(texts[1], self.complete("SELECT").choices[0].text)
        ids = self.daemon.post("/tokenize", {"prompt": START})["tokens"]
        self.assertEqual(self.complete(ids).choices[0].text, texts[0])
        self.assertEqual(self.complete([ids, ids]).choices[1].text, texts[0])
        self.assertEqual(self.daemon.post("/detokenize", {"tokens": ids})["prompt"], START)

    def test_chat(self):
        reply = self.chat()
        self.assertEqual(reply.choices[0].message.role, "assistant")
        self.assertIn(reply.choices[0].finish_reason, ("stop", "length"))
        chunks = list(self.chat(stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), reply.choices[0].message.content)
        self.assertEqual(chunks[-1].choices[0].finish_reason, reply.choices[0].finish_reason)

    def test_chat_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
        for entry in content:
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.top_logprobs[0].logprob, entry.logprob)  # greedy
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(bytes(entry.bytes).decode(errors="replace"), entry.token)

    def test_legacy_logprobs(self):
        reply = self.complete(logprobs=2)
        given = reply.choices[0].logprobs
        self.assertEqual("".join(given.tokens), reply.choices[0].text)
        self.assertEqual(given.text_offset[0], 0)
        for token, logprob, top in zip(given.tokens, given.token_logprobs, given.top_logprobs):
            self.assertEqual(max(top.values()), logprob)
            self.assertIn(token, top)

    def test_echo(self):
        reply = self.complete(echo=True, logprobs=1)
        plain = self.complete()
        self.assertEqual(reply.choices[0].text, START + plain.choices[0].text)
        self.assertIsNone(reply.choices[0].logprobs.token_logprobs[0])
        self.assertEqual("".join(reply.choices[0].logprobs.tokens), reply.choices[0].text)
        # what was generated is as probable as when it is a prompt, to the bit
        again = self.complete(reply.choices[0].text, echo=True, logprobs=1, max_tokens=0)
        if again.choices[0].logprobs.tokens == reply.choices[0].logprobs.tokens:
            self.assertEqual(again.choices[0].logprobs.token_logprobs, reply.choices[0].logprobs.token_logprobs)
        self.assertEqual(again.usage.completion_tokens, 0)

    def test_n_and_seed(self):
        first = self.complete(n=3, temperature=1, seed=7)
        again = self.complete(n=3, temperature=1, seed=7)
        other = self.complete(n=3, temperature=1, seed=8)
        texts = [choice.text for choice in first.choices]
        self.assertEqual([choice.index for choice in first.choices], [0, 1, 2])
        self.assertEqual(texts, [choice.text for choice in again.choices])
        self.assertNotEqual(texts, [choice.text for choice in other.choices])
        self.assertGreater(len(set(texts)), 1)

    def test_stop(self):
        text = self.complete().choices[0].text
        stop = text[len(text) // 2:][:4]
        expected = text[:text.index(stop)]
        reply = self.complete(stop=[stop, "never said"])
        self.assertEqual((reply.choices[0].text, reply.choices[0].finish_reason), (expected, "stop"))
        chunks = list(self.complete(stop=stop, stream=True))
        self.assertEqual("".join(c.choices[0].text for c in chunks), expected)

    def test_return_token_ids(self):
        reply = self.complete(extra_body={"return_token_ids": True})
        ids = self.daemon.post("/tokenize", {"prompt": START})["tokens"]
        self.assertEqual(reply.choices[0].prompt_token_ids, ids)
        self.assertEqual(self.daemon.post("/detokenize", {"tokens": reply.choices[0].token_ids})["prompt"],
                         reply.choices[0].text)

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.complete(model="other")
        self.assertEqual(caught.exception.code, "model_not_found")
        for parameters, name in (({"temperature": 9}, "temperature"), ({"n": 0}, "n"), ({"suffix": "x"}, "suffix"),
                                 ({"max_tokens": "many"}, "max_tokens"), ({"prompt": "a " * 3000}, "prompt")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.complete(**parameters)
            self.assertEqual(caught.exception.param, name)


if __name__ == "__main__":
    harness.main()
