"""Run folders and result rows: where they lie, how they are read and written, and where they came from.

    <results>/runs/<source>/<method>-<backbone>-s<seed>-<hash8>/
        recipe.toml  log.csv  state.pt (only while unfinished)  weights.safetensors  done
        results.csv  per_query.csv.gz

`done` is written last in training; a row appears in results.csv only with all its per-query numbers beside it.
"""

# One row per (run, target, split). Fractions in [0, 1]; `seen` is 1 where the target's identities share a domain with
# the source; `data` is the digest of the target's index; `source_data` that of the source's.
COLUMNS: dict[str, str] = {
    "source": "str",
    "target": "str",
    "seen": "int64",
    "split": "int64",
    "method": "str",
    "backbone": "str",
    "seed": "int64",
    "mAP": "float64",
    "rank1": "float64",
    "rank5": "float64",
    "rank10": "float64",
    "mINP": "float64",
    "queries": "int64",
    "gallery": "int64",
    "unmatched": "int64",
    "recipe": "str",
    "hash": "str",
    "data": "str",
    "source_data": "str",
    "version": "str",
    "commit": "str",
    "torch": "str",
    "device": "str",
    "dtype": "str",
    "date": "str",
}
