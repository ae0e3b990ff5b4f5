"""Commands about checkpoints: inspect, pull and tiny."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.options import output_option
from tri_serve.cli.output import print_data, print_table

if TYPE_CHECKING:
    from tri_serve.checkpoint.inspect import CheckpointFacts

# As tri_serve.checkpoint.tiny.TINY_FORMATS; named here so that --help imports nothing.
FORMATS = ("bf16", "awq", "gptq", "ct", "bnb4")


@click.group()
def checkpoint() -> None:
    """Fetch, inspect and make checkpoints."""


@checkpoint.command()
@click.argument("source", envvar="TRI_SERVE_CHECKPOINT_SOURCE")
@click.option("--revision", help="Branch, tag or commit of a hub repository. [default: main]")
@output_option()
def inspect(source: str, revision: str | None, output: str) -> None:
    """Check that a checkpoint is whole and show what it is.

    SOURCE is a directory, a hub name (owner/name) that was fetched before, or tiny:awq, tiny:gptq, tiny:ct,
    tiny:bnb4, tiny:bf16. Only config.json, the tokenizer's files and the headers of the weights are read.
    """
    if not source:
        raise click.BadParameter("it is empty", param_hint="SOURCE")
    from tri_serve.checkpoint.inspect import inspect_checkpoint
    from tri_serve.checkpoint.resolve import resolve_source
    from tri_serve.places import cache_dir
    from tri_serve.spec.engine import ModelSpec

    model = ModelSpec(source=source, revision=revision, served_name="inspected")
    facts = inspect_checkpoint(resolve_source(model, cache_dir()))
    if output == "table":
        print_table(("checkpoint", str(facts.path)), _rows(facts))
    else:
        print_data(_data(facts), output)


@checkpoint.command()
@click.argument("source", metavar="OWNER/NAME", envvar="TRI_SERVE_CHECKPOINT_SOURCE")
@click.option("--revision", help="Branch, tag or commit. [default: main]")
@click.option("--trust-remote-code", is_flag=True, help="Fetch the checkpoint's Python files too.")
@output_option()
def pull(source: str, revision: str | None, trust_remote_code: bool, output: str) -> None:
    """Fetch a checkpoint from the Hugging Face hub into its local cache, and check it.

    Weights come as safetensors alone, never as pickles. What was fetched is kept whatever happens: run it again,
    and it goes on where it stopped. Each file's checksum is compared. For a gated or private repository, HF_TOKEN
    (or the file that `hf auth login` writes) says who asks. HF_HOME, HF_ENDPOINT, HTTPS_PROXY, REQUESTS_CA_BUNDLE
    and SSL_CERT_FILE are honoured.
    """
    from tri_serve.checkpoint.inspect import inspect_checkpoint
    from tri_serve.cli.progress import steps
    from tri_serve.cli.pulling import pull_with_progress
    from tri_serve.spec.engine import ModelSpec

    if not source:
        raise click.BadParameter("it is empty", param_hint="OWNER/NAME")
    model = ModelSpec(
        source=source, revision=revision, served_name="pulled", trust_remote_code=trust_remote_code
    )
    with steps() as view:
        pulled = pull_with_progress(model, view)
    facts = inspect_checkpoint(pulled.path)
    if output == "table":
        print_table(("checkpoint", str(facts.path)), _rows(facts))
    else:
        print_data(_data(facts) | {"commit": pulled.commit, "fetched_bytes": pulled.fetched}, output)


@checkpoint.command()
@click.argument("fmt", metavar="[FORMAT]", default="awq", type=click.Choice(FORMATS))
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write, new or empty. [default: the cache]",
)
def tiny(fmt: Any, output: Path | None) -> None:
    """Make the tiny checkpoint that ships with tri-serve and print its directory.

    FORMAT is awq (the default), gptq, ct (compressed-tensors), bnb4 (bitsandbytes nf4) or bf16: 3.7 million
    parameters in Tri's shape that answer a few dozen questions in Korean, English and Japanese.
    """
    from tri_serve.checkpoint.tiny import export_tiny, tiny_checkpoint
    from tri_serve.places import cache_dir

    if output is None:
        click.echo(tiny_checkpoint(fmt, cache_dir()))
    else:
        export_tiny(fmt, output)
        click.echo(output)


def _rows(facts: CheckpointFacts) -> list[tuple[str, str]]:
    shape = facts.architecture
    kinds = [
        (kind.replace("_", " "), f"{size:,} B ({size / facts.total_bytes:.1%})")
        for kind, size in facts.bytes_by_kind.items()
        if size
    ]
    return [
        ("architecture", ", ".join(shape.architectures)),
        ("parameters", f"{facts.parameters:,}"),
        ("layers", f"{shape.num_hidden_layers}"),
        ("hidden, intermediate", f"{shape.hidden_size:,}, {shape.intermediate_size:,}"),
        (
            "attention heads",
            f"{shape.num_attention_heads} query, {shape.num_key_value_heads} key-value, {shape.head_dim} wide",
        ),
        ("vocabulary", f"{shape.vocab_size:,}{', tied embeddings' if shape.tie_word_embeddings else ''}"),
        ("context", f"{shape.context:,} tokens"),
        ("quantization", facts.quantization.label),
        ("other weights", shape.torch_dtype),
        ("tensors", f"{facts.tensor_count:,} in {len(facts.files):,} file{'s' * (len(facts.files) > 1)}"),
        ("tensor bytes", f"{facts.total_bytes:,} B ({_binary(facts.total_bytes)})"),
        *[(f"  {kind}", size) for kind, size in kinds],
        ("KV cache", f"{facts.kv_bytes_per_token:,} B a token in bfloat16"),
        ("tokenizer", facts.tokenizer),
        ("chat template", "yes" if facts.has_chat_template else "no: chat completions will be refused"),
        *([("remote code", "yes: needs model.trust_remote_code")] if facts.remote_code else []),
    ]


def _binary(size: int) -> str:
    return f"{size / 2**30:.3f} GiB" if size >= 2**30 else f"{size / 2**20:.3f} MiB"


def _data(facts: CheckpointFacts) -> dict[str, Any]:
    from dataclasses import asdict

    architecture = asdict(facts.architecture) | {"architectures": list(facts.architecture.architectures)}
    quantization = asdict(facts.quantization) | {"ignored": list(facts.quantization.ignored)}
    return {
        "path": str(facts.path),
        "parameters": facts.parameters,
        "architecture": architecture,
        "quantization": quantization,
        "tensors": facts.tensor_count,
        "files": list(facts.files),
        "bytes": facts.total_bytes,
        "bytes_by_kind": dict(facts.bytes_by_kind),
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "tokenizer": facts.tokenizer,
        "chat_template": facts.has_chat_template,
        "remote_code": facts.remote_code,
    }
