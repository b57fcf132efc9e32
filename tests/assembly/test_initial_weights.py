"""--init_from and --freeze: where a run starts, and what of it learns."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from cct_tf.assembly import initial_weights, keras_file
from cct_tf.convert.weights import by_path, to_torch
from cct_tf.errors import UserError
from cct_tf.machine import files
from cct_tf.models import create_model
from cct_tf.runs import run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.training import saver
from tests.convert import torch_files
from tests.training import tiny

LARGER = {"image_size": 12, "train_steps": 4, "eval_every_steps": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder: digits at 8 x 8 pixels, learned well enough to be worth starting from."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.train(folder, train_steps=140, batch_size=32, log_every_steps=140, eval_every_steps=140, ema_decay=0.9,
               learning_rate=3e-3, crop_padding=0, flip="none", test_at_end=False, **tiny.NO_MASKS)
    assert tiny.records(folder, "eval/")[-1]["eval/top1"] > 0.85
    return folder


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory):
    """An archive of the digits 0 to 4, few of them to learn from."""
    path = tmp_path_factory.mktemp("five") / "digits.npz"
    digits = load_digits()
    chosen = digits.target < 5
    images = np.uint8(np.round(digits.images[chosen] * 255 / 16))
    labels = digits.target[chosen]
    np.savez(path, x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:])
    return {"dataset": "npz", "data_dir": str(path), "mean": (0.305,), "std": (0.376,)}


def weights_of(folder, part="weights"):
    """{path: array} of the best checkpoint of a work folder."""
    reader = tf.train.load_checkpoint(str(run_record.list_checkpoints(folder / "best")[-1] / "weights"))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return {name.removeprefix(f"{part}/").removesuffix(suffix).replace(".S", "/"): reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map() if name.startswith(f"{part}/") and name.endswith(suffix)}


def arrays(model):
    return {path: variable.numpy() for path, variable in by_path(model).items()}


def equal(first, second, but=()):
    assert first.keys() == second.keys() and len(first) > 20
    return all(np.array_equal(first[path], second[path]) for path in first if path not in but)


def test_a_run_starts_from_the_best_of_another(trained, tmp_path):
    averages = tiny.assemble(tmp_path / "a", init_from=str(trained))
    assert equal(arrays(averages.network.model), weights_of(trained) | weights_of(trained, "ema"))
    raw = tiny.assemble(tmp_path / "b", init_from=str(trained), init_weights="raw", ema_decay=0.5)
    assert equal(arrays(raw.network.model), weights_of(trained))
    assert equal(arrays(raw.network.averaged), arrays(raw.network.model)), "the average does not begin with them"
    assert not equal(arrays(raw.network.model), arrays(averages.network.model))


def test_every_kind_of_file_gives_the_same_weights(trained, tmp_path):
    path = run_record.list_checkpoints(trained / "best")[-1]
    model = tiny.assemble(tmp_path / "a", init_from=str(path)).network.model
    expected = arrays(model)
    keras_file.save(model, tmp_path / "x.keras")
    state = to_torch(model)
    for kind in ("zip", "legacy", "safetensors"):
        torch_files.write(tmp_path / f"x.{kind}", {"module." + name: array for name, array in state.items()}, kind)
    for name in ("x.keras", "x.zip", "x.legacy", "x.safetensors"):
        pretrained = initial_weights.find(tiny.settings(tmp_path / "b", init_from=str(tmp_path / name)))()
        assert equal(dict(pretrained.arrays), expected), name


def test_weights_elsewhere_are_those_of_a_copy_here(trained, tmp_path):
    best, = run_record.list_checkpoints(trained / "best")
    files.send(str(trained), "ram://weights/run")
    files.send(str(best), f"memory://weights/{best.name}")
    model = create_model("cct_2_3x1_8", num_classes=10)
    keras_file.save(model, tmp_path / "x.keras")
    torch_files.write(tmp_path / "x.safetensors", to_torch(model), "safetensors")
    files.send(str(tmp_path / "x.keras"), "ram://weights/x.keras")
    files.send(str(tmp_path / "x.safetensors"), "memory://weights/x.safetensors")
    for here, elsewhere in ((trained, "ram://weights/run/"), (best, f"memory://weights/{best.name}"),
                            (tmp_path / "x.keras", "ram://weights/x.keras"),
                            (tmp_path / "x.safetensors", "memory://weights/x.safetensors")):
        found, expected = (initial_weights.find(tiny.settings(tmp_path / "run", init_from=str(place)))()
                           for place in (elsewhere, here))
        assert equal(dict(found.arrays), dict(expected.arrays)) and found.checksum == expected.checksum
        assert found.name == expected.name.replace(str(here), elsewhere.rstrip("/")), found.name


@pytest.mark.parametrize(("files_there", "words"), [
    ([], "found nothing at 'ram://wrong'"), (["x"], "found neither in 'ram://wrong'$"),
    (["files/0-x"], "found neither .* a copy of --backup_dir"), (["best/x"], "--init_from: expected .*'ram://wrong'")])
def test_weights_that_are_not_elsewhere(files_there, words, tmp_path):
    if tf.io.gfile.exists("ram://wrong"):
        tf.io.gfile.rmtree("ram://wrong")
    for name in files_there:
        (tmp_path / "here" / name).parent.mkdir(parents=True)
        (tmp_path / "here" / name).write_text("x")
        files.send(str(tmp_path / "here"), "ram://wrong")
    with pytest.raises(UserError, match=words):
        initial_weights.find(tiny.settings(tmp_path / "run", init_from="ram://wrong"))


def test_a_keras_file_of_another_precision_is_taken(tmp_path):
    for dtype in ("bfloat16", "float16", "float64"):
        model, file = create_model("cct_2_3x1_8", num_classes=10, dtype=dtype), tmp_path / f"{dtype}.keras"
        keras_file.save(model, file)
        found = arrays(tiny.assemble(tmp_path / dtype, init_from=str(file)).network.model)
        assert equal(found, {path: np.float32(array) for path, array in arrays(model).items()}), dtype


def test_a_path_may_begin_at_home(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(trained.parent))
    pretrained = initial_weights.find(tiny.settings(tmp_path, init_from=f"~/{trained.name}"))()
    assert pretrained.name.startswith(str(trained))


def test_a_keras_file_that_cannot_be_read_is_named_with_its_flag(tmp_path):
    file = tmp_path / "x.keras"
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match="^--init_from: .*x.keras: expected a .keras file that can be read"):
        initial_weights.find(tiny.settings(tmp_path / "run", init_from=str(file)))()


def test_the_average_that_a_torch_file_lacks_is_named_with_its_flag(tmp_path):
    state = to_torch(create_model("cct_2_3x1_8"))
    file = torch_files.write(tmp_path / "x.pth", state, "zip")
    with pytest.raises(UserError, match="^--init_from: .*x.pth: expected the state dict of --init_weights=ema, found"):
        initial_weights.find(tiny.settings(tmp_path / "run", init_from=str(file), init_weights="ema"))


def test_a_larger_image_and_fewer_classes(trained, five_classes, tmp_path, capsys):
    run = LARGER | five_classes | {"init_from": str(trained)}
    training = tiny.assemble(tmp_path, **run)
    own = arrays(create_model("cct_2_3x1_8", num_classes=5, image_size=12))
    found, before = arrays(training.network.model), weights_of(trained) | weights_of(trained, "ema")
    grid = before["positions/embedding"].reshape(1, 4, 4, -1)
    resized = tf.image.resize(grid, [6, 6], "bilinear")  # half-pixel centres, no antialiasing
    np.testing.assert_allclose(found["positions/embedding"], tf.reshape(resized, [36, -1]), atol=1e-6)
    new = {"head/kernel", "head/bias", "positions/embedding"}
    assert all(np.array_equal(found[path], before[path]) for path in before.keys() - new)
    assert np.array_equal(found["head/kernel"], own["head/kernel"]), "the head is not that of the seed"
    assert "the weights of the head are new, for 5 classes" in capsys.readouterr().err
    row = next(line for line in training.plan_lines() if "starts from" in line)
    assert "EMA weights); positions of 4 x 4 tokens resized to 6 x 6; a new head" in row


def test_fine_tuning_beats_training_from_scratch_at_equal_steps(trained, five_classes, tmp_path):
    run = {"image_size": 12, "train_steps": 12, "eval_every_steps": 12, "batch_size": 32, "crop_padding": 0,
           "flip": "none", "learning_rate": 2e-3, "test_at_end": False} | tiny.NO_MASKS | five_classes
    results = {}
    for name, start in (("tuned", {"init_from": str(trained), "layer_decay": 0.8}), ("scratch", {})):
        tiny.train(tmp_path / name, **run, **start)
        results[name] = tiny.records(tmp_path / name, "eval/")[-1]["eval/top1"]
    assert results["tuned"] > 0.7 > results["scratch"] + 0.2, results


def test_it_stops_and_goes_on_without_the_file_it_came_from(trained, tmp_path, monkeypatch):
    model = tiny.assemble(tmp_path / "other", init_from=str(trained)).network.model
    file = tmp_path / "x.keras"
    keras_file.save(model, file)
    run = {"train_steps": 6, "checkpoint_every_steps": 3, "init_from": str(file), "freeze": "tokenizer,block_0"}
    trainer = tiny.Trainer(tmp_path / "trainer", **run)
    trainer.train(tmp_path / "whole")
    stopped = trainer.assemble(tmp_path / "stopped")
    save = saver.Saver.__call__

    def save_and_die(*args, **named):
        save(*args, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saver.Saver, "__call__", save_and_die)
        stopped.run(tiny.NoInterrupts())
    file.unlink()
    going_on = tiny.assemble(tmp_path / "stopped", **run)
    assert going_on.start.step == 3
    assert any("starts from" in line and "x.keras" in line for line in going_on.plan_lines())
    going_on.run(tiny.NoInterrupts())
    assert tiny.records(tmp_path / "stopped") == tiny.records(tmp_path / "whole")
    assert equal(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))


def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(trained, tmp_path):
    training = tiny.assemble(tmp_path, train_steps=3, eval_every_steps=3, freeze="tokenizer,block_0,*/gamma",
                             ema_decay=0.5, init_from=str(trained), layer_decay=0.9, recompute=True, test_at_end=False)
    before = arrays(training.network.model)
    training.run(tiny.NoInterrupts())
    for after in (weights_of(tmp_path), weights_of(tmp_path, "ema")):
        still = {path for path in before if np.array_equal(after[path], before[path])}
        assert still == {path for path in before if path.startswith(("tokenizer/", "block_0/"))
                         or path.endswith("/gamma")}
    frozen = [name for name in weights_of(tmp_path, "optimizer") if "tokenizer" in name or "block_0" in name]
    assert not frozen, "the optimizer keeps moments of frozen weights"


def test_how_a_frozen_run_is_computed_does_not_change_it(trained, tmp_path):
    fields = tiny.NO_MASKS | {"train_steps": 4, "freeze": "all_but_head", "init_from": str(trained),
                              "test_at_end": False}
    losses = []
    for name, run in (("plain", {}), ("xla", {"jit": "on", "num_replicas": 2, "accumulate_steps": 2})):
        tiny.train(tmp_path / name, **fields, **run)
        losses.append([record["train/loss"] for record in tiny.records(tmp_path / name, "train/loss")])
        before, after = weights_of(trained) | weights_of(trained, "ema"), weights_of(tmp_path / name)
        assert equal(before, after, but=("head/kernel", "head/bias"))
        assert not np.array_equal(before["head/kernel"], after["head/kernel"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_learning_rates_by_layer_count_the_frozen_blocks(trained, tmp_path):
    rates = tiny.assemble(tmp_path, layer_decay=0.5, freeze="tokenizer,block_0").network.optimizer.rate_factors
    assert set(rates) == {0.5**3, 0.5**1, 1.0}  # positions; the second of two blocks; head, pooling, last norm


def _begun(workdir, **changes):
    """What a run leaves that is looked at before its weights are."""
    folder, chosen = workdir / "checkpoints/step_00000001", tiny.settings(workdir, **changes)
    folder.mkdir(parents=True)
    run_record.write_record(folder, run_record.Record(chosen.as_dict(), Resolved(8, (), {}), 1, RunStatus(1), False,
                                                      {}))


def test_another_freezing_is_another_run(tmp_path):
    _begun(tmp_path, train_steps=2, freeze="tokenizer")
    with pytest.raises(UserError, match="expected --freeze=tokenizer, whose weights its optimizer knows, found d"):
        tiny.assemble(tmp_path, train_steps=4, accept_config_change=True)


def test_a_run_that_goes_on_names_no_other_first_weights(tmp_path):
    _begun(tmp_path, train_steps=1)
    with pytest.raises(UserError, match="expected --init_from as when the run began .*another --workdir"):
        tiny.assemble(tmp_path, train_steps=2, accept_config_change=True, init_from="other.pth")


def test_weights_of_a_network_of_another_kind_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="norm_order authors instead of pre"):
        tiny.assemble(tmp_path / "a", init_from=str(trained), norm_order="pre")


def test_a_folder_of_converted_weights_is_no_run_to_go_on_with(trained, tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best/step_00000000").mkdir()
    with pytest.raises(UserError, match="best checkpoint alone, which a new run would replace; .* --init_from="):
        tiny.assemble(tmp_path)
