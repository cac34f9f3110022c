"""The corpus as token arrays: splits off held-out documents, trains the tokenizer, encodes."""

import random

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Share of each domain in a training batch.
WEIGHTS = {
    "scripture": 0.05, "glossary": 0.14, "pydoc": 0.11, "pgdoc": 0.08, "sqlitedoc": 0.07,
    "c": 0.26, "python": 0.16, "sql": 0.08, "german": 0.017, "french": 0.017, "spanish": 0.016,
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
END_OF_TEXT, PAD = 0, 3
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def read_corpus(folder):
    """Returns two dictionaries of domain -> documents: to train on, and held out (2 %)."""
    training, held_out = {}, {}
    for name in WEIGHTS:
        with open(f"{folder}/{name}.txt") as text:
            documents = text.read().split("\n\x00")
        random.Random(7).shuffle(documents)
        count = max(4, len(documents) // 50)
        held_out[name], training[name] = documents[:count], documents[count:]
    return training, held_out


def tokenizer_sample(training):
    """Yields the documents that the tokenizer is trained on, in proportion to the weights."""
    for name, weight in WEIGHTS.items():
        total = 0
        for document in training[name]:
            yield document[:20000]
            total += min(len(document), 20000)
            if total > weight * 60e6:
                break


def train_tokenizer(training, vocab):
    """Trains a byte-level BPE with a split regex of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(tokenizer_sample(training), trainer)
    return tokenizer


def encode(tokenizer, documents, device):
    """Returns all documents as one int32 tensor, each ended by END_OF_TEXT."""
    arrays = []
    for i in range(0, len(documents), 512):
        for encoding in tokenizer.encode_batch(documents[i:i + 512]):
            arrays.append(np.array(encoding.ids + [END_OF_TEXT], dtype=np.uint16))
    return torch.from_numpy(np.concatenate(arrays).astype(np.int32)).to(device)


class Batches:
    """Draws windows of window + 1 tokens, domains by weight, places uniformly."""

    def __init__(self, tokens, window, size):
        self.tokens, self.window, self.size = tokens, window, size
        self.weights = torch.tensor(list(WEIGHTS.values()))
        device = next(iter(tokens.values())).device
        self.offsets = torch.arange(window + 1, device=device)

    def draw(self):
        """Returns an int64 tensor [size, window + 1], rows grouped by domain."""
        domains = torch.multinomial(self.weights, self.size, True).tolist()
        windows = []
        for i, name in enumerate(WEIGHTS):
            count = domains.count(i)
            if count:
                tokens = self.tokens[name]
                starts = torch.randint(0, len(tokens) - self.window - 1, (count, 1),
                                       device=tokens.device)
                windows.append(tokens[starts + self.offsets])
        return torch.cat(windows).long()
