"""llama.cpp's side of compare_llama.py: run by it with the Python of its venv (llama-cpp-python, gguf, numpy).

    llama_engine.py convert MODEL FILE      MODEL's weights (a Mixtral, bf16) as GGUF, bit for bit
    llama_engine.py serve FILE THREADS      measures on request: a line of JSON in, a line of JSON out

The decode loop is the plainest there is: one llama_decode a step for all sequences, the best token of each row by one
numpy.argmax. No HTTP, no text, no queue, no scheduling: what a server does beside this is llama.cpp's to win here."""

import ctypes
import json
import os
import sys
import time

import numpy

ROUTER = "blk.{layer}.ffn_gate_inp.weight"
LAYER_NAMES = {
    "input_layernorm.weight": "blk.{layer}.attn_norm.weight",
    "post_attention_layernorm.weight": "blk.{layer}.ffn_norm.weight",
    "self_attn.q_proj.weight": "blk.{layer}.attn_q.weight",
    "self_attn.k_proj.weight": "blk.{layer}.attn_k.weight",
    "self_attn.v_proj.weight": "blk.{layer}.attn_v.weight",
    "self_attn.o_proj.weight": "blk.{layer}.attn_output.weight",
    "block_sparse_moe.gate.weight": ROUTER,
}
EXPERT_NAMES = {"w1": "blk.{layer}.ffn_gate_exps.weight", "w2": "blk.{layer}.ffn_down_exps.weight",
                "w3": "blk.{layer}.ffn_up_exps.weight"}


# --- conversion ------------------------------------------------------------------------------------------------------


def read_weights(model):
    """All tensors, bf16 as the uint16 of their bits."""
    tensors = {}
    for name in sorted(os.listdir(model)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(model, name), "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            for key, entry in head.items():
                if key == "__metadata__":
                    continue
                if entry["dtype"] != "BF16":
                    raise SystemExit(f"{name}: {key}: expected BF16, found {entry['dtype']}")
                begin, end = entry["data_offsets"]
                file.seek(start + begin)
                tensors[key] = numpy.frombuffer(file.read(end - begin), numpy.uint16).reshape(entry["shape"])
    return tensors


def permute(weight, heads):
    """Rows of q and k from Hugging Face's halves (i, i + d/2) to llama.cpp's neighbours (2i, 2i + 1)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert(model, path):
    import gguf

    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if config["model_type"] != "mixtral":
        raise SystemExit(f"expected a mixtral, found {config['model_type']}")
    weights = read_weights(model)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")  # prompts are token ids
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    def add(name, bits):
        if bits.ndim == 1 or name.endswith("ffn_gate_inp.weight"):  # llama.cpp wants norms and routers in f32: exact
            writer.add_tensor(name, (bits.astype(numpy.uint32) << 16).view(numpy.float32))
        else:
            writer.add_tensor(name, numpy.ascontiguousarray(bits).view(numpy.uint8),
                              raw_dtype=gguf.GGMLQuantizationType.BF16)

    add("token_embd.weight", weights.pop("model.embed_tokens.weight"))
    add("output_norm.weight", weights.pop("model.norm.weight"))
    if not config["tie_word_embeddings"]:
        add("output.weight", weights.pop("lm_head.weight"))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for ours, theirs in LAYER_NAMES.items():
            bits = weights.pop(prefix + ours)
            if ours.startswith("self_attn.q"):
                bits = permute(bits, config["num_attention_heads"])
            if ours.startswith("self_attn.k"):
                bits = permute(bits, config["num_key_value_heads"])
            add(theirs.format(layer=layer), bits)
        for ours, theirs in EXPERT_NAMES.items():
            add(theirs.format(layer=layer),
                numpy.stack([weights.pop(f"{prefix}block_sparse_moe.experts.{expert}.{ours}.weight")
                             for expert in range(config["num_local_experts"])]))
    if weights:
        raise SystemExit(f"weights without a place: {sorted(weights)[:3]} ...")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- measuring -------------------------------------------------------------------------------------------------------


class Engine:
    """A context of llama.cpp and its batch."""

    def __init__(self, model, threads, sequences, length, flash, unified):
        import llama_cpp

        self.lib = llama_cpp
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * ((length + 255) // 256 * 256)
        params.n_batch = params.n_ubatch = self.capacity = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash
                                  else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        params.kv_unified = unified
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.batch = llama_cpp.llama_batch_init(self.capacity, 0, 1)
        as_array = numpy.ctypeslib.as_array
        self.token = as_array(self.batch.token, (self.capacity,))
        self.pos = as_array(self.batch.pos, (self.capacity,))
        self.logits = as_array(self.batch.logits, (self.capacity,))
        as_array(self.batch.n_seq_id, (self.capacity,))[:] = 1
        self.inside = 0.0  # seconds within llama_decode

    def close(self):
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def run(self, tokens, positions, sequences, wanted):
        """One llama_decode; the most likely token of each wanted row."""
        n = len(tokens)
        self.token[:n], self.pos[:n], self.logits[:n] = tokens, positions, wanted
        for row, sequence in enumerate(sequences):
            self.batch.seq_id[row][0] = sequence
        return self.again(n)

    def again(self, n):
        self.batch.n_tokens = n
        began = time.perf_counter()
        status = self.lib.llama_decode(self.context, self.batch)
        if status:
            raise RuntimeError(f"llama_decode says {status}")
        rows = int(numpy.count_nonzero(self.logits[:n]))
        logits = self.lib.llama_get_logits(self.context) if rows else None  # waits until it is computed
        self.inside += time.perf_counter() - began
        if not rows:
            return []
        return numpy.ctypeslib.as_array(logits, (rows, self.vocab)).argmax(axis=1)

    def prefill(self, prompts):
        """All prompts, in batches as full as they can be; the first token of each answer."""
        rows = [(token, at, sequence, at == len(prompt) - 1) for sequence, prompt in enumerate(prompts)
                for at, token in enumerate(prompt)]
        firsts = []
        for at in range(0, len(rows), self.capacity):
            firsts.extend(self.run(*zip(*rows[at:at + self.capacity])))
        return firsts

    def decode(self, prompts, firsts, steps, limit):
        """Up to `steps` more tokens of each sequence, as many as begin within `limit` seconds; [step][sequence]"""
        n = len(prompts)
        end = time.perf_counter() + limit
        answers = []
        last = self.run(firsts, [len(prompt) for prompt in prompts], range(n), [1] * n)
        answers.append(last.tolist())
        while len(answers) < steps and time.perf_counter() < end:
            self.token[:n] = last
            self.pos[:n] += 1
            last = self.again(n)
            answers.append(last.tolist())
        return answers


def measure(engine, prompts, tokens, limit):
    """Seconds of prefill and of a decode step for all prompts at once; `tokens` tokens each, the first by the prefill.
    A decode that takes longer than `limit` is cut short: on a busy machine steps can take a hundred times as long,
    since threads spin for one that does not run."""
    engine.clear()
    engine.inside = 0.0
    began = time.perf_counter()
    firsts = engine.prefill(prompts)
    middle = time.perf_counter()
    middle_inside = engine.inside
    answers = engine.decode(prompts, firsts, tokens - 1, limit) if tokens > 1 else []
    end = time.perf_counter()
    steps = max(len(answers), 1)
    return {"prefill": middle - began, "step": (end - middle) / steps,
            "step_inside": (engine.inside - middle_inside) / steps,
            "answers": [[int(firsts[i])] + [step[i] for step in answers] for i in range(len(prompts))]}


def teacher_forced(engine, prompt, answer):
    """How many tokens of an answer are also what llama.cpp finds most likely at that place."""
    engine.clear()
    text = prompt + answer[:-1]
    wanted = [at >= len(prompt) - 1 for at in range(len(text))]
    best = engine.run(text, range(len(text)), [0] * len(text), wanted)
    return int(numpy.count_nonzero(best == numpy.array(answer)))


class Server:
    def __init__(self, path, threads):
        import llama_cpp

        quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
        self.keep, self.lib, self.threads = quiet, llama_cpp, threads
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")

    def answer(self, ask):
        if ask["op"] == "about":
            return {"system": self.lib.llama_print_system_info().decode().strip()}
        prompts = ask["prompts"]
        length = max(map(len, prompts)) + ask["tokens"] + 1
        engine = Engine(self.model, ask.get("threads", self.threads), len(prompts), length, ask["flash"],
                        ask["unified"])
        try:
            if ask["op"] == "teacher":
                return {"equal": teacher_forced(engine, prompts[0], ask["answer"])}
            measure(engine, prompts, min(ask["tokens"], 3), 1)  # warms up: pages, threads, caches
            return measure(engine, prompts, ask["tokens"], ask["limit"])
        finally:
            engine.close()


def main():
    if sys.argv[1] == "convert":
        convert(sys.argv[2], sys.argv[3])
        return
    server = Server(sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


main()
