#!/usr/bin/env python3
"""The table of `run.sh`: reads what the programs left in a folder, prints it and writes table.md
and results.json beside.

  table.py FOLDER SEED COMMIT-FILE SECONDS [--small]

Answers 1 when a test failed or a figure of ours is missing; a goal that is not reached is a
finding, not a failure.
"""
import json, os, sys
from importlib.metadata import PackageNotFoundError, version

out, seed, commit, elapsed = sys.argv[1:5]
SMALL = "--small" in sys.argv

# key, title, goal: ("ratio", at least), ("least", value), ("most", value) of our own figure
ROWS = [
    ("product", "bf16 product, cuBLAS", None),
    ("copy", "copy on the card", None),
    ("nf4", "NF4 dequantisation", None),
    ("norm", "RMSNorm", None),
    ("attention forward", "attention, forward", None),
    ("attention backward", "attention, backward", None),
    ("matvec 1", "4-bit product, 1 row", None),
    ("matvec 8", "4-bit product, 8 rows", None),
    ("matvec 64", "4-bit product, 64 rows", None),
    ("matvec q4_k 1", "Q4_K product, 1 row", None),
    ("matvec q4_k 8", "Q4_K product, 8 rows", None),
    ("matvec q4_k 64", "Q4_K product, 64 rows", None),
    ("train, one pair", "training step, a pair at once", ("ratio", 2.0)),
    ("share, one pair", "… useful share of the product's rate", ("least", 40.0)),
    ("memory, one pair", "… peak memory", None),
    ("train, four pairs", "training step, four pairs at once", ("ratio", 2.0)),
    ("share, four pairs", "… useful share of the product's rate", ("least", 40.0)),
    ("memory, four pairs", "… peak memory", None),
    ("train, 2,048 rows", "training step, 2,048 packed tokens at once", ("ratio", 2.0)),
    ("share, 2,048 rows", "… useful share of the product's rate", ("least", 40.0)),
    ("memory, 2,048 rows", "… peak memory", ("most", 9.0)),
    ("generate", "generation", ("ratio", 3.0)),
    ("memory, generate", "… peak memory", None),
]
SIGN = {"ratio": "≥ {:g} x", "least": "≥ {:g}", "most": "≤ {:g}"}


def read(name):
    figures = {}
    for line in open(os.path.join(out, name)):
        try:
            figure = json.loads(line)
        except json.JSONDecodeError:
            continue                                # a line cut off when the time was up
        figures[figure["key"]] = figure
    return figures


def line_of(key, title, goal, ours, peer):
    mine, theirs = ours.get(key), peer.get(key)
    unit = (mine or theirs or {}).get("unit", "")
    ratio = None
    if mine and theirs and mine["value"] and theirs["value"]:
        ratio = mine["value"] / theirs["value"]
        if unit == "GiB":
            ratio = 1 / ratio                       # in our favour, like the rest
    reached = None
    if goal and not SMALL:
        kind, bound = goal
        value = ratio if kind == "ratio" else mine and mine["value"]
        if value is not None:
            reached = value <= bound if kind == "most" else value >= bound
    notes = [(who, f["note"]) for who, f in (("ours", mine), ("peer", theirs)) if f and f.get("note")]
    return {"key": key, "title": title, "unit": unit, "ours": mine and mine["value"], "peer": theirs and theirs["value"], "ratio": ratio,
            "goal": goal and SIGN[goal[0]].format(goal[1]), "reached": reached, "note": "; ".join(f"{who}: {note}" for who, note in notes)}


def shown(value, unit=""):
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {unit}".strip()


def versions():
    found = []
    for name in ("torch", "transformers", "peft", "triton", "bitsandbytes", "flash_attn"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            if name in ("bitsandbytes", "flash_attn"):
                found.append(f"no {name}")
    return ", ".join(found)


def tests():
    """Program -> its status; and a sentence."""
    codes = {name: int(code) for name, code in (line.split() for line in open(os.path.join(out, "tests")))}
    why = {77: "found no GPU", 124: "ran out of time"}
    bad = [f"{name} ({why.get(code, f'status {code}')})" for name, code in codes.items() if code]
    said = f"{len(codes) - len(bad)} of {len(codes)} test programs passed, seed {seed}"
    return codes, said + (f"; FAILED: {', '.join(bad)}" if bad else "")


def main():
    ours, peer = read("ours.jsonl"), read("peer.jsonl")
    card = ours.pop("card", {}).get("value", "no card answered")
    rows = [line_of(*row, ours, peer) for row in ROWS]
    codes, said = tests()
    built = " ".join(open(commit).read().split()) if os.path.exists(commit) else "unknown"
    lines = [f"**{card}**; commit {built}; {versions()}; {elapsed} s", "", said, ""]
    if SMALL:
        lines[2:2] = ["Tiny sizes, to try the script: the figures mean nothing.", ""]
    lines += ["| | ours | peer | ratio | goal | reached | |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        reached = {None: "–" if r["goal"] else "", True: "yes", False: "NO"}[r["reached"]]
        ratio = "–" if r["ratio"] is None else f"{r['ratio']:.2f}"
        lines.append(f"| {r['title']} | {shown(r['ours'], r['unit'])} | {shown(r['peer'], r['unit'])} | {ratio} | {r['goal'] or ''} | {reached} | {r['note']} |")
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    with open(os.path.join(out, "table.md"), "w") as f:
        f.write(text)
    with open(os.path.join(out, "results.json"), "w") as f:
        json.dump({"card": card, "commit": built, "small": SMALL, "versions": versions(), "seconds": int(elapsed), "seed": int(seed), "tests": codes, "rows": rows}, f, indent=1)
    print(f"{os.path.join(out, 'results.json')}, table.md and every program's output beside it")
    missing = [r["key"] for r in rows if r["ours"] is None]
    if missing:
        print(f"not measured: {', '.join(missing)}")
    sys.exit(bool(missing or any(codes.values())))


main()
