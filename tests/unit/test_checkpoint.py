"""A checkpoint is read whole and right from every form that Hugging Face gives it, or refused with a message that helps."""

import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.checkpoint import BloomConfig, Checkpoint
from engine_jobs.fastertransformer.torch_pickle import read_torch_file
from tests.unit.bloom_checkpoints import GOLDEN, SIX_HEADS, TINY, arrays, as_shards, copied, edit_config


class Explosive:
    """Pickles to a call that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def rewritten(source: Path, target: Path, replace: dict[str, bytes | None]) -> Path:
    """The zip `source` with some members' bytes replaced, or left out where None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = replace.get(Path(info.filename).name, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return target


class TestConfigNamesAreThoseOfHuggingFace:
    def test_aliases_mean_the_same(self, tmp_path: Path) -> None:
        folder = copied(SIX_HEADS, tmp_path / "c")
        first = BloomConfig.read(folder)
        names = (("n_embed", "hidden_size"), ("num_attention_heads", "n_head"), ("n_layer", "num_hidden_layers"))
        edit_config(folder, lambda config: config.update({new: config.pop(old) for old, new in names}))
        assert BloomConfig.read(folder) == first
        assert (first.dimensions.heads, first.dimensions.hidden, first.dimensions.layers) == (6, 48, 2)

    def test_defaults_are_those_of_bloom(self, tmp_path: Path) -> None:
        folder = copied(SIX_HEADS, tmp_path / "c")
        defaulted = ("bos_token_id", "eos_token_id", "layer_norm_epsilon", "_name_or_path")
        edit_config(folder, lambda config: [config.pop(name) for name in defaulted])
        config = BloomConfig.read(folder)
        assert (config.start_id, config.end_id, config.layer_norm_epsilon, config.name_or_path) == (1, 2, 1e-5, "")

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda c: c.pop("num_attention_heads"), "has no n_head or num_attention_heads"),
            (lambda c: c.pop("n_embed"), "has no hidden_size or n_embed"),
            (lambda c: c.pop("n_layer"), "has no n_layer or num_hidden_layers"),
            (lambda c: c.pop("vocab_size"), "has no vocab_size"),
            (lambda c: c.update(n_layer="2"), "n_layer is '2', and must be a whole number"),
            (lambda c: c.update(num_attention_heads=5), "48 is no multiple of the 5 heads"),
            (lambda c: c.update(model_type="gpt2"), "model_type is 'gpt2'"),
            (lambda c: c.pop("model_type"), "model_type is None"),
            (lambda c: c.update(n_inner=100), "n_inner is 100"),
            (lambda c: c.update(eos_token_id=None), "eos_token_id is None"),
            (lambda c: c.update(layer_norm_epsilon="small"), "layer_norm_epsilon is 'small'"),
        ],
    )
    def test_a_config_that_does_not_do_names_the_key(self, tmp_path: Path, edit: Any, message: str) -> None:
        folder = copied(SIX_HEADS, tmp_path / "c")
        edit_config(folder, edit)
        with pytest.raises(UserError, match=message) as caught:
            Checkpoint.open(folder)
        assert str(folder / "config.json") in str(caught.value)

    @pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "is not a JSON object")])
    def test_broken_json(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            Checkpoint.open(tmp_path)

    def test_no_config(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"config\.json is missing"):
            Checkpoint.open(tmp_path)


class TestEveryFormHoldsTheSameTensors:
    def test_shards_equal_one_file(self, tmp_path: Path) -> None:
        shards = as_shards(TINY, tmp_path / "shards", 3)
        assert len(Checkpoint.open(shards).files) == 3
        whole, dealt = arrays(TINY), arrays(shards)
        assert whole.keys() == dealt.keys()
        assert all(np.array_equal(whole[name], dealt[name]) for name in whole)

    def test_shards_without_an_index(self, tmp_path: Path) -> None:
        shards = as_shards(TINY, tmp_path / "shards", 2)
        (shards / "model.safetensors.index.json").unlink()
        assert arrays(shards).keys() == arrays(TINY).keys()

    def test_torch_shards_with_an_index(self, tmp_path: Path) -> None:
        folder = copied(SIX_HEADS, tmp_path / "c")
        (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
        names = read_torch_file(folder / "pytorch_model-00001-of-00001.bin")
        index = {"weight_map": dict.fromkeys(names, "pytorch_model-00001-of-00001.bin")}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
        again = arrays(folder)
        assert all(np.array_equal(array, again[name]) for name, array in arrays(SIX_HEADS).items())

    def test_rows_are_a_part_of_the_whole(self) -> None:
        tensor = Checkpoint.open(TINY).tensors["word_embeddings.weight"]
        assert np.array_equal(tensor.raw(7, 19), tensor.raw()[7:19])

    def test_a_tied_head_is_left_out_and_strangers_are_named(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].copy()
        tensors["transformer.h.0.self_attention.masked_bias"] = np.zeros(1, np.float16)
        save_file(tensors, folder / "model.safetensors")
        checkpoint = Checkpoint.open(folder)
        assert "lm_head.weight" not in checkpoint.tensors
        assert checkpoint.ignored == ("h.0.self_attention.masked_bias",)

    def test_an_untied_head_is_refused(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"] + 1
        save_file(tensors, folder / "model.safetensors")
        edit_config(folder, lambda config: config.update(tie_word_embeddings=False))
        with pytest.raises(UserError, match="tie_word_embeddings is false"):
            Checkpoint.open(folder)


class TestSpoiltShardsAreNamed:
    def test_no_weights(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        (folder / "model.safetensors").unlink()
        with pytest.raises(UserError, match=r"has no model\.safetensors, .* or pytorch_model\.bin\.index\.json"):
            Checkpoint.open(folder)

    @pytest.mark.parametrize("size", [0, 5, 2000, 961_000])
    def test_a_cut_safetensors_file(self, tmp_path: Path, size: int) -> None:
        folder = copied(TINY, tmp_path / "c")
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(size)
        with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
            Checkpoint.open(folder)

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        shards = as_shards(TINY, tmp_path / "shards", 3)
        (shards / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(
            UserError, match=r"model-00002-of-00003\.safetensors is missing, and model\.safetensors\.index"
        ):
            Checkpoint.open(shards)

    def test_an_index_that_names_an_absent_tensor(self, tmp_path: Path) -> None:
        shards = as_shards(TINY, tmp_path / "shards", 2)
        path = shards / "model.safetensors.index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        index["weight_map"]["transformer.h.9.ghost"] = "model-00001-of-00002.safetensors"
        path.write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(
            UserError, match=r"says that transformer\.h\.9\.ghost is in model-00001-of-00002\.safetensors"
        ):
            Checkpoint.open(shards)

    @pytest.mark.parametrize("text", ["{}", '{"weight_map": {"a": 1}}', '{"weight_map": []}'])
    def test_an_index_without_a_map(self, tmp_path: Path, text: str) -> None:
        shards = as_shards(TINY, tmp_path / "shards", 2)
        (shards / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="has no weight_map"):
            Checkpoint.open(shards)

    def test_a_tensor_that_is_nowhere(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        edit_config(folder, lambda config: config.update(n_layer=3))
        with pytest.raises(UserError, match=r"has no tensor h\.2\.input_layernorm\.weight"):
            Checkpoint.open(folder)

    def test_a_tensor_of_another_shape(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        edit_config(folder, lambda config: config.update(vocab_size=641))
        with pytest.raises(UserError, match=r"word_embeddings\.weight has shape \[640, 128\].*calls for \[641, 128\]"):
            Checkpoint.open(folder)

    def test_a_type_that_ft_does_not_take(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        tensors = load_file(folder / "model.safetensors")
        save_file({name: array.astype(np.float64) for name, array in tensors.items()}, folder / "model.safetensors")
        with pytest.raises(UserError, match="is F64; the converter takes F32, F16, BF16"):
            Checkpoint.open(folder)


class TestTorchFilesAreReadWithoutRunningThem:
    def test_what_torch_wrote(self) -> None:
        entries = read_torch_file(SIX_HEADS / "pytorch_model.bin")
        assert entries["word_embeddings.weight"].shape == (61, 48)
        assert {entry.dtype for entry in entries.values()} == {"F32"}

    def test_a_call_in_the_pickle_is_refused(self, tmp_path: Path) -> None:
        mark = tmp_path / "made-by-a-pickle"
        bad = rewritten(
            SIX_HEADS / "pytorch_model.bin", tmp_path / "bad.bin", {"data.pkl": pickle.dumps(Explosive(mark))}
        )
        with pytest.raises(UserError, match="it asks for pathlib"):
            read_torch_file(bad)
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("state", "message"),
        [([1, 2], "does not hold a dict"), (OrderedDict(a=1), None), ("x", "does not hold a dict")],
    )
    def test_other_contents(self, tmp_path: Path, state: object, message: str | None) -> None:
        file = rewritten(SIX_HEADS / "pytorch_model.bin", tmp_path / "x.bin", {"data.pkl": pickle.dumps(state)})
        if message is None:
            assert read_torch_file(file) == {}
        else:
            with pytest.raises(UserError, match=message):
                read_torch_file(file)

    def test_the_format_before_torch_1_6(self) -> None:
        with pytest.raises(UserError, match=r"six-heads-legacy\.bin cannot be read: .*save it as safetensors"):
            read_torch_file(GOLDEN / "six-heads-legacy.bin")

    @pytest.mark.parametrize("size", [0, 100, 60_000, 128_000])
    def test_a_cut_file(self, tmp_path: Path, size: int) -> None:
        data = (SIX_HEADS / "pytorch_model.bin").read_bytes()
        assert size < len(data)
        (tmp_path / "cut.bin").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"cut\.bin cannot be read"):
            read_torch_file(tmp_path / "cut.bin")

    @pytest.mark.parametrize(
        ("replace", "message"),
        [
            ({"0": None}, "the numbers of tensor .* are missing"),
            ({"0": b"short"}, "are compressed or cut"),
            ({"byteorder": b"big"}, "not little-endian"),
            ({"data.pkl": None}, "no data.pkl"),
            ({"data.pkl": b"garbage"}, "cannot be read"),
        ],
    )
    def test_damaged_members(self, tmp_path: Path, replace: dict[str, bytes | None], message: str) -> None:
        bad = rewritten(SIX_HEADS / "pytorch_model.bin", tmp_path / "bad.bin", replace)
        with pytest.raises(UserError, match=message):
            read_torch_file(bad)
