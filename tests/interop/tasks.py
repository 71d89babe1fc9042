"""`randori eval --tasks` against lm_eval 0.4.13's `hf` model, item by item.

    tests/interop/tasks.py RANDORI [--model FOLDER] [--gsm8k FOLDER] [--limit N]
    tests/interop/tasks.py --goldens    # writes tests/fixtures/tasks/goldens.json

Makes a small Llama (or takes the folder of a model), small data for the six tasks in the form of
their data sets, and definitions that include lm_eval's own with these data. Both programs then
answer every item, with the definitions' own number of examples and with three: log-probs must agree
within 1e-4 (of long choices 6e-6 of themselves), choices, responses, filtered answers and scores be
equal, and so must the figures of tasks and of a group. A choice may differ where the log-probs it hangs on are closer than that: such
items are listed. Wants requirements.txt's packages and lm-eval==0.4.13.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval  # noqa: E402
import torch  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig  # noqa: E402
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

NEAR = 1e-4
# lm_eval's f32 alone is off by this share of a long choice's log-prob: of SmolLM2-135M's -111.0381
# it was 2.6e-4 off PyTorch in f64, where Randori was 1.7e-5 off (2026-12-01)
OF_ITSELF = 6e-6
TASKS = ["arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "gsm8k"]
SUBJECTS = ["anatomy", "abstract_algebra"]
# Tasks of our own, for what the six have not: questions that are examples, too, prefixes, examples
# in the definition, several right answers, choices by template.
OWN = {
    "own_choices": """output_type: multiple_choice
test_split: test
fewshot_split: test
num_fewshot: 2
description: "Of {{subject}}: choose.\\n"
doc_to_text: "{{question | trim}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{ choices | map('upper') | list }}"
gen_prefix: "It is"
target_delimiter: "\\n"
fewshot_delimiter: "\\n--\\n"
""",
    "own_several": """output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "{{question}}"
doc_to_target: "{{ [answer, 0] }}"
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: yes}
""",
    "own_text": """test_split: test
doc_to_text: "Question: {{question.strip()}}\\nAnswer: "
doc_to_target: "{{choices[answer]}}"
num_fewshot: 3
fewshot_config:
  samples:
    - {question: "What is 2 + 3?", choices: ["5 apples.\\n#### 5"], answer: 0}
    - {question: "What is 4 + 3?", choices: ["7 apples.\\n#### 7"], answer: 0}
    - {question: "What is 6 + 3?", choices: ["9 apples.\\n#### 9"], answer: 0}
generation_kwargs: {until: ["Question:", "\\n\\n"], max_gen_toks: 24, do_sample: no}
filter_list:
  - name: last
    filter:
      - {function: regex, regex_pattern: "[0-9]+", group_select: -1, fallback: "0"}
      - {function: take_first}
  - name: whole
    filter:
      - {function: lowercase}
      - {function: remove_whitespace}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_punctuation: true}
""",
}
NAMES = ["Ada", "Bo", "Cleo", "Dan", "Eva", "Finn"]
THINGS = ["apples", "stones", "cards", "boats", "keys", "lamps"]


def rows(seed, n):
    """Made-up rows of every data set, for one split."""
    draw = random.Random(seed)
    out = {name: [] for name in ["arc", "hellaswag", "truthfulqa", "winogrande", "gsm8k", "mmlu"]}
    for i in range(n):
        who, other = draw.sample(NAMES, 2)
        what = draw.sample(THINGS, 4)
        a, b = draw.randint(2, 99), draw.randint(2, 9)
        labels = ["1", "2", "3", "4"] if i % 4 == 3 else ["A", "B", "C", "D"]
        count = 3 if i % 5 == 4 else 4
        out["arc"].append({
            "id": f"q{i}", "question": f"What does {who} carry {b} of? ",
            "choices": {"text": [f"{b} {w}" for w in what[:count]], "label": labels[:count]},
            "answerKey": labels[i % count]})
        out["hellaswag"].append({
            "ind": i, "activity_label": f"Counting {what[0]}",
            "ctx_a": f"{who} takes  the {what[0]} [header] from a box.",
            "ctx_b": f"{other.lower()} and ÉVA", "ctx": "", "split_type": "indomain",
            "endings": [f"counts {a} {w} [title] and\nleaves [step] {'twice' * k}." for k, w in enumerate(what)],
            "source_id": f"s{i}", "label": str(i % 4)})
        true = [f"{who} has {b} {what[0]}.", f"It is {who}'s «{what[1]}»."][: 1 + i % 2]
        false = [f"{other} has none.", "Nobody knows the " + what[2]]
        mixed = [(t, 1) for t in true] + [(f, 0) for f in false]
        draw.shuffle(mixed)
        out["truthfulqa"].append({
            "question": f"Who has the {what[0]}?",
            "mc1_targets": {"choices": true[:1] + false, "labels": [1, 0, 0]},
            "mc2_targets": {"choices": [m[0] for m in mixed], "labels": [m[1] for m in mixed]}})
        out["winogrande"].append({
            "sentence": f"{who} gave {other} the {what[0]} since _ had {a} {what[1]} left.",
            "option1": who, "option2": other, "answer": "12"[i % 2]})
        out["gsm8k"].append({
            "question": f"{who} has {a} {what[0]} and buys {b} more for ${b}.50. How many now?",
            "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b} {what[0]}.\n#### {a + b:,}"})
        out["mmlu"].append({
            "question": f" Which of these does {who} need {a} of?\n", "subject": "x",
            "choices": what, "answer": i % 4})
    # the same row several times: examples are drawn that are the question itself
    out["mmlu"][-3:] = [dict(out["mmlu"][0])] * 3
    return out


def write(path, docs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs))


def data(folder, gsm8k, n=13):
    """The data sets as files, as `--data` finds them; their texts."""
    splits = {"train": rows(1, n), "validation": rows(2, n), "test": rows(3, n), "dev": rows(4, 6)}
    sets = [("allenai/ai2_arc/ARC-Challenge", "arc", ["train", "validation", "test"]),
            ("hellaswag", "hellaswag", ["train", "validation"]),
            ("truthful_qa/multiple_choice", "truthfulqa", ["validation"]),
            ("winogrande/winogrande_xl", "winogrande", ["train", "validation"]),
            ("openai/gsm8k/main", "gsm8k", ["train", "test"])]
    sets += [(f"cais/mmlu/{subject}", "mmlu", ["dev", "test"]) for subject in SUBJECTS]
    for place, name, own in sets:
        for split in own:
            docs = splits[split][name]
            if name == "gsm8k" and gsm8k:
                lines = (gsm8k / f"{split}.jsonl").read_text().splitlines()
                docs = [json.loads(line) for line in lines]
            if place.endswith(SUBJECTS[1]) and split == "test":
                docs = docs[: len(docs) - 4]  # of another size: the group weighs by it
            write(folder / place / f"{split}.jsonl", docs)
    return [doc for split in splits.values() for docs in split.values() for doc in docs]


def definitions(folder, data):
    """Definitions of our own that include lm_eval's: only the place of the data is another."""
    tasks = pathlib.Path(lm_eval.__file__).parent / "tasks"
    own = [("arc/arc_challenge.yaml", "arc_challenge", "allenai/ai2_arc/ARC-Challenge"),
           ("hellaswag/hellaswag.yaml", "hellaswag", "hellaswag"),
           ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa_mc2", "truthful_qa/multiple_choice"),
           ("winogrande/default.yaml", "winogrande", "winogrande/winogrande_xl"),
           ("gsm8k/gsm8k.yaml", "gsm8k", "openai/gsm8k/main")]
    own += [(f"mmlu/default/mmlu_{s}.yaml", f"mmlu_{s}", f"cais/mmlu/{s}") for s in SUBJECTS]
    for include, name, place in own:
        files = {f.stem: str(f) for f in (data / place).iterdir()}
        lines = [f"include: {tasks / include}", f"task: {name}", "dataset_path: json",
                 "dataset_name: null", "dataset_kwargs:", "  data_files:"]
        lines += [f"    {split}: {file}" for split, file in sorted(files.items())]
        (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    (folder / "few.yaml").write_text(
        "group: few\ntask:\n" + "".join(f"  - mmlu_{s}\n" for s in SUBJECTS)
        + "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: True\n")
    files = data / "cais/mmlu" / SUBJECTS[0]
    for name, text in OWN.items():
        kwargs = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {files}/test.jsonl\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{kwargs}{text}")
    return str(tasks)


def small(folder, docs):
    """A small Llama that has learnt a little of the rows' form."""
    texts = [json.dumps(doc, ensure_ascii=False) for doc in docs]
    sums = [d for d in docs if "####" in str(d)]
    texts += 5 * [f"Question: {d['question']}\nAnswer: {d['answer']}\n\n" for d in sums]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>",
                                   pad_token="<|end|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        bos_token_id=None, eos_token_id=0, pad_token_id=0, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = random.Random(0)
    for _ in range(250):
        ids = fast("".join(draw.sample(texts, 6)), return_tensors="pt").input_ids[:, :512]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)


def theirs(model, folder, tasks, shots, limit):
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lm = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=1, device="cpu")
    return lm_eval.simple_evaluate(
        model=lm, tasks=tasks, num_fewshot=shots, limit=limit, log_samples=True,
        bootstrap_iters=100,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False))


def ours(randori, model, tasks, shots, limit, out, more):
    command = [randori, "eval", str(model), "--tasks", ",".join(tasks), "--out", str(out)]
    command += ["--limit", str(limit)] if limit else []
    command += ["--num-fewshot", str(shots)] if shots is not None else []
    done = subprocess.run(command + more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in out.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["task"], []).append(row)
    return found, done.stdout


def goldens():
    """What lm_eval gives of the fixture's tasks with the demo's model, for `cargo test`."""
    root = pathlib.Path(__file__).parents[2]
    fixture = root / "tests/fixtures/tasks"
    python = ["hellaswag/utils.py", "winogrande/preprocess_winogrande.py", "truthfulqa/utils.py"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for file in (fixture / "definitions").rglob("*yaml"):
            place = folder / file.relative_to(fixture / "definitions")
            place.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text()
            named = re.search(r'"?dataset_name"?: *"?(\w+)', text)
            includes = re.search(r'"?include"?: *"?(\w+(\.yaml)?)', text)
            whose = file.parent / includes[1] if includes else file
            path = re.search("dataset_path: (.*)", whose.read_text())
            if path and "task" in text and "group:" not in text:
                at = fixture / "data" / path[1] / (named[1] if named else "")
                at = at if at.is_dir() else at.parent
                text = re.sub(r'("?dataset_(path|name)"?:.*\n)', "", text)
                text += "dataset_path: json\ndataset_kwargs:\n  data_files:\n"
                text += "".join(f"    {f.stem}: {f}\n" for f in sorted(at.iterdir()))
            place.write_text(text)
        for file in python:
            source = pathlib.Path(lm_eval.__file__).parent / "tasks" / file
            (folder / file).write_text(source.read_text())
        names = ["endings", "blanks", "truths", "sums", "sums_alone", "science", "letters"]
        their = theirs(str(root / "configs/demo/model"), folder, names, None, None)
    out = {"figures": {}, "items": {}}
    for task, samples in their["samples"].items():
        items = out["items"].setdefault(task, {})
        for sample in samples:
            item = items.setdefault(sample["doc_id"], {"scores": {}})
            for metric in sample["metrics"]:
                item["scores"][f"{metric},{sample['filter']}"] = float(sample[metric])
            if sample["resps"][0][0].__class__ is str:
                item["response"] = sample["resps"][0][0]
                item.setdefault("filtered", {})[sample["filter"]] = sample["filtered_resps"][0]
            else:
                item["logps"] = [round(float(resp[0][0]), 6) for resp in sample["resps"]]
    out["items"] = {task: list(items.values()) for task, items in out["items"].items()}
    for task, results in {**their["results"], **their.get("groups", {})}.items():
        of = {key: float(value) for key, value in results.items() if "," in key}
        out["figures"][task] = of
    lines = ",\n".join(f"{json.dumps(task)}: {json.dumps(items)}" for task, items in out["items"].items())
    text = f'{{"figures": {json.dumps(out["figures"])},\n"items": {{\n{lines}\n}}}}\n'
    (fixture / "goldens.json").write_text(text)


def near(logps, value):
    """Whether a choice hangs on less than NEAR."""
    best = sorted(logps, reverse=True)
    return len(best) > 1 and best[0] - best[1] < NEAR * value


def compare(task, shots, samples, rows, report):
    by_doc = {}
    for sample in samples:
        by_doc.setdefault(sample["doc_id"], []).append(sample)
    assert len(by_doc) == len(rows), (task, len(by_doc), len(rows))
    worst, close = 0.0, []
    for row in rows:
        for sample in by_doc[row["document"]]:
            key = sample["filter"]
            place = (task, row["document"], key)
            if row.get("logps"):
                logps = [float(resp[0][0]) for resp in sample["resps"]]
                assert len(logps) == len(row["logps"]), place
                apart = max(abs(a - b) for a, b in zip(logps, row["logps"]))
                worst = max(worst, apart)
                most = max(NEAR, OF_ITSELF * max(abs(logp) for logp in logps))
                assert apart < most, (place, logps, row["logps"])
            else:
                response = sample["resps"][0][0]
                assert response == row["response"], (place, response, row["response"])
                assert sample["filtered_resps"][0] == row["filtered"][key], (place, row)
            for metric in sample["metrics"]:
                own = row["scores"][f"{metric},{key}"]
                same = abs(float(sample[metric]) - own) < 1e-4
                if not same and row.get("logps") and near(row["logps"], 2):
                    close.append(place)
                    continue
                assert same, (place, metric, sample[metric], own)
    scores = [score for row in rows for score in row["scores"].values()]
    report.append(f"{task:24} {str(shots):>6} {len(rows):>5} {worst:10.1e} "
                  f"{sum(scores) / len(scores):8.4f}  {close if close else ''}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("randori", nargs="?")
    parser.add_argument("--goldens", action="store_true")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--gsm8k", type=pathlib.Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shots", default="own,3")
    parser.add_argument("--tasks", default=",".join(TASKS + ["few", *OWN]))
    args = parser.parse_args()
    if args.goldens:
        return goldens()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        docs = data(folder / "data", args.gsm8k)
        (folder / "mine").mkdir()
        installed = definitions(folder / "mine", folder / "data")
        model = args.model
        if model is None:
            model = folder / "model"
            small(model, docs)
        tasks = args.tasks.split(",")
        report = [f"{'task':24} {'shots':>6} {'items':>5} {'|logp|':>10} {'mean':>8}"]
        for shots in args.shots.split(","):
            shots = None if shots == "own" else int(shots)
            their = theirs(model, folder / "mine", tasks, shots, args.limit)
            out = folder / "items.jsonl"
            mine = ["--harness", str(folder / "mine")]
            found, table = ours(args.randori, model, tasks, shots, args.limit, out, mine)
            for task, samples in their["samples"].items():
                compare(task, shots, samples, found[task], report)
            # lm_eval's own files, with the data found by their names
            plain = [t for name in tasks if name not in OWN
                     for t in ([f"mmlu_{s}" for s in SUBJECTS] if name == "few" else [name])]
            where = ["--harness", installed, "--data", str(folder / "data")]
            again, _ = ours(args.randori, model, plain, shots, args.limit, out, where)
            found = {task: rows for task, rows in found.items() if task not in OWN}
            assert again == found, "lm_eval's own definitions give something else"
            print(table)
            for task, results in {**their["results"], **their.get("groups", {})}.items():
                for key, value in results.items():
                    if "_stderr," not in key and "," in key:
                        error = results.get(key.replace(",", "_stderr,"))
                        shown = f"{value:.4f}"
                        line = [li for li in table.splitlines() if shown in li]
                        assert line, (task, key, value, table)
                        if isinstance(error, float):
                            assert any(f"{error:.4f}" in li for li in line), (task, error, line)
        print("\n".join(report))


main()
