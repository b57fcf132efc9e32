"""Wrong input that needs no TensorFlow to see: one line on stderr that names the flag or file, exit status 2.

The whole table runs in one process that cannot import TensorFlow (tests/without_tensorflow.py); a few cases run again
as a user would run them.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cct_tf import config
from cct_tf.training import run_record
from tests.convert import torch_files

REPO = Path(__file__).resolve().parents[1]
SECONDS = 3.0  # of processor time, for other work may slow the clock; promised: about 1
IMAGE = bytes.fromhex("89504e470d0a1a0a")  # enough of a PNG for a listing, which decodes nothing
FINISHED = {"dataset": "digits", "model": "cct_2_3x1_16", "train_steps": 4}  # the run in {scene}/done
DONE = "--workdir={scene}/done --dataset=digits --model=cct_2_3x1_16 --train_steps=4"

# Name, arguments of cct_tf.train behind --workdir={scene}/new, what the line must name. {scene} is the folder below.
FLAGS = [
    ("misspelt flag", "--learning_rat=1", "--learning_rat", "learning_rate"),
    ("flag of no command", "--nodropout", "--nodropout"),
    ("positional argument", "digits", "'digits'"),
    ("flagfile without its flag", "configs/smoke.cfg", "configs/smoke.cfg", "--flagfile=configs/smoke.cfg"),
    ("no value", "--model", "--model"),
    ("not a number", "--batch_size=many", "--batch_size", "many"),
    ("not an integer", "--batch_size=1.5", "--batch_size", "1.5"),
    ("too small", "--batch_size=0", "--batch_size", "at least 1", "'0'"),
    ("batch of a typing error", "--batch_size=128128128128", "--batch_size", "at most 1e+06"),
    ("steps beyond any run", "--train_steps=99999999999999999999", "--train_steps", "at most 1e+10"),
    ("epochs beyond any run", "--epochs=1e300", "--epochs", "at most 1e+06"),
    ("seed of more than 63 bits", "--seed=9223372036854775808", "--seed", "9223372036854775808"),
    ("negative seed", "--seed=-1", "--seed", "'-1'"),
    ("zero epochs", "--epochs=0", "--epochs", "above 0"),
    ("rate of one", "--dropout_rate=1", "--dropout_rate", "below 1"),
    ("share of one", "--validation_fraction=1", "--validation_fraction", "below 1"),
    ("NaN", "--learning_rate=nan", "--learning_rate", "nan"),
    ("infinity", "--weight_decay=inf", "--weight_decay", "inf"),
    ("NaN in a list", "--mean=0.5,nan,0.5 --std=1", "--mean", "nan"),
    ("mean of two values", "--mean=0.5,0.5 --std=1", "--mean", "1 or 3"),
    ("deviation of zero", "--mean=0 --std=0", "--std", "above 0"),
    ("mean alone", "--mean=0.5", "--std", "--mean"),
    ("deviation alone", "--std=0.5", "--mean", "--std"),
    ("unknown choice", "--flip=vertical", "--flip", "random, alternating, none", "vertical"),
    ("neither true nor false", "--deterministic=perhaps", "--deterministic", "perhaps"),
    ("neither stop nor rollback", "--on_divergence=retry", "--on_divergence", "stop, rollback", "retry"),
    ("unknown model", "--model=cct_7_3x1", "--model", "cct_7_3x1"),
    ("unknown data set", "--dataset=cifar11", "--dataset", "cifar11", "cifar10"),
    ("image too small for the model", "--model=cct_14_7x2_224 --image_size=8", "--image_size", "cct_14_7x2_224"),
    ("image size no multiple of the patch", "--model=cvt_7_4_32 --image_size=30", "--image_size", "30"),
    ("batch not divisible", "--batch_size=30 --num_replicas=4", "--batch_size", "4", "30"),
    ("batch not divisible into parts", "--batch_size=30 --accumulate_steps=4", "--batch_size", "4", "30"),
    ("mixed batch of an odd size", "--batch_size=31 --mixup_alpha=0.8", "--batch_size", "even", "31"),
    ("mixed batch of an odd number of images", "--batch_size=30 --cutmix_alpha=1 --repeated_augmentation=2",
     "--batch_size", "even", "15", "2 draws"),
    ("repeats that do not divide the batch", "--batch_size=32 --repeated_augmentation=3", "--repeated_augmentation",
     "divisor", "found 3"),
    ("erasing one and a half times", "--erase_probability=1.5", "--erase_probability", "at most 1", "1.5"),
    ("negative alpha", "--mixup_alpha=-1", "--mixup_alpha", "at least 0"),
    ("moving average that never moves", "--ema_decay=1", "--ema_decay", "below 1"),
    ("reciprocal warm-up that ends within an epoch", "--warmup_shape=reciprocal --warmup_epochs=1.5",
     "--warmup_epochs", "whole", "1.5"),
    ("reciprocal warm-up from a rate", "--warmup_shape=reciprocal --warmup_epochs=1 --warmup_learning_rate=0.1",
     "--warmup_learning_rate", "0.1"),
    ("prefix of no cosine", "--warmup_prefix --schedule=constant", "--warmup_prefix", "--schedule"),
    ("Lion without a first moment", "--optimizer=lion --beta_1=0", "--beta_1", "--optimizer=lion"),
    ("crop range reversed", "--random_resized_crop=1,0.5", "--random_resized_crop", "1,0.5"),
    ("two crops", "--random_resized_crop=0.5,1 --crop_padding=2", "--crop_padding", "--random_resized_crop"),
    ("unknown policy", "--auto_augment=cifar11", "--auto_augment", "found 'cifar11'; did you mean 'cifar10'"),
    ("magnitude out of range", "--auto_augment=rand-m11-mstd0.5-inc1", "--auto_augment", "0 to 10", "'m11'"),
    ("magnitude without a number", "--auto_augment=rand-m-n2", "--auto_augment", "mN, nN", "'m'"),
    ("part of RandAugment that is not understood", "--auto_augment=rand-m9-mmax12", "--auto_augment", "'mmax12'"),
    ("too many operations in a row", "--auto_augment=rand-n7", "--auto_augment", "1 to 6", "'n7'"),
    ("half an operation", "--auto_augment=rand-n1.5", "--auto_augment", "a whole number", "'n1.5'"),
    ("two magnitudes", "--auto_augment=rand-m9-inc1-m5", "--auto_augment", "once", "'m5'"),
    ("cache that is a word", "--compile_cache=on", "--compile_cache", "auto, off", "slash", "'on'"),
    ("one step to profile", "--profile_steps=5", "--profile_steps", "A:B", "'5'"),
    ("steps to profile reversed", "--profile_steps=20:11", "--profile_steps", "A <= B", "'20:11'"),
    ("profile of a step before the first", "--profile_steps=0:3", "--profile_steps", "1 <= A", "'0:3'"),
    ("profile of too many steps", "--profile_steps=1:101", "--profile_steps", "at most 100", "101"),
    ("split of a set that has none", "--train_split=all", "--train_split", "all"),
    ("weights from nowhere", "--init_from={scene}/none.pth", "--init_from", "nothing", "{scene}/none.pth"),
    ("weights from a folder without", "--init_from={scene}/empty", "--init_from", "{scene}/empty"),
    ("weights from the run's own folder", "--init_from={scene}/new/best", "--init_from", "outside the work folder"),
    ("weights from a damaged run", "--init_from={scene}/damaged/checkpoints/step_00000004", "--init_from",
     "step_00000004/weights.index"),
    ("weights of another network", "--init_from={scene}/done --model=cct_4_3x1_16", "--init_from", "cct_2_3x1_16",
     "depth 2 instead of 4"),
    ("averages of a run without", "--init_from={scene}/done --init_weights=ema", "--init_weights", "--ema_decay"),
    ("averages of nothing", "--init_weights=ema", "--init_weights", "--init_from", "'ema'"),
    ("weights from a folder of checkpoints", "--init_from={scene}/done/checkpoints", "--init_from", "step_..."),
    ("weights that are words", "--init_from={scene}/words.cfg", "--init_from", "{scene}/words.cfg", ".safetensors"),
    ("weights with other names", "--init_from={scene}/weights.pth", "--init_from", "classifier.fc.weigth",
     "did you mean 'classifier.fc.weight'"),
    ("weights that run code", "--init_from={scene}/code.pth", "--init_from", "os.system"),
    ("average in a Keras file", "--init_from={scene}/empty.keras --init_weights=ema", "--init_weights", "'ema'"),
    ("frozen part that is none", "--freeze=tokeniser", "--freeze", "'tokeniser'", "all_but_head"),
    ("everything frozen", "--freeze=tokenizer,encoder,pooling,head", "--freeze", "left to learn"),
    ("flagfile missing", "--flagfile={scene}/none.cfg", "--flagfile", "{scene}/none.cfg"),
    ("flagfile is a folder", "--flagfile={scene}/empty", "--flagfile", "{scene}/empty"),
    ("flagfile is no text", "--flagfile={scene}/binary.cfg", "--flagfile", "{scene}/binary.cfg"),
    ("flagfile with words", "--flagfile={scene}/words.cfg", "{scene}/words.cfg:2", "epochs 3"),
    ("circular flagfile", "--flagfile={scene}/circle.cfg", "--flagfile", "circle"),
    ("flagfile of itself", "--flagfile={scene}/self.cfg", "--flagfile", "self.cfg"),
    ("comment behind a value is none of it", "--flagfile={scene}/comment.cfg", "{scene}/comment.cfg:1", "'0'"),
    ("nested path from the file that names it", "--flagfile={scene}/nested/outer.cfg", "nested/inner.cfg:1", "--seed"),
    ("wrong flag in a nested file", "--flagfile={scene}/nested/typo.cfg", "nested/typo.cfg:1", "--lerning_rate"),
]
DATA = [
    ("folder not named", "--dataset=folder", "--data_dir"),
    ("folder missing", "--dataset=folder --data_dir={scene}/none", "--data_dir", "{scene}/none"),
    ("folder is a file", "--dataset=folder --data_dir={scene}/binary.cfg", "--data_dir", "{scene}/binary.cfg"),
    ("no class", "--dataset=folder --data_dir={scene}/empty", "--data_dir", "{scene}/empty"),
    ("one class", "--dataset=folder --data_dir={scene}/one --validation_fraction=0.5", "--data_dir", "'cat'"),
    ("class without images", "--dataset=folder --data_dir={scene}/hollow --validation_fraction=0.5", "hollow/dog"),
    ("class unknown to training", "--dataset=folder --data_dir={scene}/surprise", "surprise/test/bird"),
    ("no test images", "--dataset=folder --data_dir={scene}/untested", "--data_dir", "--validation_fraction"),
    ("archive not named", "--dataset=npz", "--data_dir"),
    ("archive missing", "--dataset=npz --data_dir={scene}/none.npz", "--data_dir", "{scene}/none.npz"),
    ("archive is no archive", "--dataset=npz --data_dir={scene}/words.cfg", "{scene}/words.cfg"),
    ("archive truncated", "--dataset=npz --data_dir={scene}/cut.npz", "{scene}/cut.npz"),
    ("archive without a key", "--dataset=npz --data_dir={scene}/key.npz", "{scene}/key.npz", "y_test"),
    ("floating-point images", "--dataset=npz --data_dir={scene}/float.npz", "{scene}/float.npz", "x_train", "uint8"),
    ("images of five channels", "--dataset=npz --data_dir={scene}/five.npz", "{scene}/five.npz", "x_train"),
    ("fewer labels than images", "--dataset=npz --data_dir={scene}/fewer.npz", "{scene}/fewer.npz", "y_train"),
    ("negative label", "--dataset=npz --data_dir={scene}/negative.npz", "{scene}/negative.npz", "y_train", "-1"),
    ("label unknown to training", "--dataset=npz --data_dir={scene}/beyond.npz", "{scene}/beyond.npz", "y_test",
     "found 5"),
    ("class without an image", "--dataset=npz --data_dir={scene}/gap.npz", "{scene}/gap.npz", "y_train", "1"),
    ("pickled objects", "--dataset=npz --data_dir={scene}/pickled.npz", "{scene}/pickled.npz"),
]
# Name, module, all arguments, what the line must name.
OTHERS = [
    ("no work folder", "train", "", "--workdir"),
    ("empty work folder name", "train", "--workdir=", "--workdir"),
    ("work folder is a file", "train", "--workdir={scene}/binary.cfg", "--workdir", "{scene}/binary.cfg"),
    ("work folder below a file", "train", "--workdir={scene}/binary.cfg/x", "--workdir", "{scene}/binary.cfg/x"),
    ("work folder where there can be none", "train", "--workdir=/proc/cct_tf", "--workdir", "/proc/cct_tf"),
    ("work folder not writable", "train", "--workdir={locked}", "--workdir", "{locked}", "ermission"),
    ("work folder in a closed one", "train", "--workdir={locked}/../closed/x", "closed/x", "ermission"),
    ("dry run of a work folder that is a file", "train", "--dry_run --workdir={scene}/binary.cfg", "--workdir"),
    ("second run", "train", "--workdir={scene}/busy", "--workdir", "{scene}/busy", "process 4711"),
    ("changed config", "train", DONE + " --learning_rate=1 --seed=3", "--learning_rate", "0.0005",
     "1", "--seed", "checkpoint 0, now 3", "--accept_config_change"),
    ("all checkpoints damaged", "train", "--workdir={scene}/damaged", "step_00000004/weights.index",
     "step_00000002/run.json"),
    ("train in a folder of weights", "train", "--workdir={scene}/converted", "--workdir", "best checkpoint alone",
     "--init_from={scene}/converted"),
    ("evaluate nothing", "evaluate", "", "--workdir"),
    ("evaluate a missing folder", "evaluate", "--workdir={scene}/none", "--workdir", "{scene}/none"),
    ("evaluate a closed folder", "evaluate", "--workdir={locked}/../closed", "closed/best", "ermission"),
    ("evaluate a closed checkpoint", "evaluate", "--workdir={scene}/done --checkpoint={locked}/../closed/step_00000004",
     "closed/step_00000004", "ermission"),
    ("evaluate a name too long", "evaluate", "--workdir={scene}/" + 300 * "a", "aaa/best", "too long"),
    ("evaluate a file", "evaluate", "--workdir={scene}/binary.cfg", "--workdir", "{scene}/binary.cfg"),
    ("evaluate a link in a circle", "evaluate", "--workdir={scene}/loop", "--workdir", "{scene}/loop"),
    ("evaluate a checkpoint whose record is a folder", "evaluate", "--workdir={scene}/odd", "--checkpoint",
     "step_00000004/run.json: Is a directory"),
    ("evaluate an empty folder", "evaluate", "--workdir={scene}/empty", "--workdir", "{scene}/empty"),
    ("evaluate what is no checkpoint", "evaluate", "--workdir={scene}/done --checkpoint={scene}/empty",
     "--checkpoint", "{scene}/empty"),
    ("evaluate an unknown checkpoint", "evaluate", "--workdir={scene}/done --checkpoint=first", "--checkpoint",
     "first"),
    ("evaluate a damaged checkpoint", "evaluate", "--workdir={scene}/damaged --checkpoint=last", "--checkpoint",
     "step_00000004/weights.index"),
    ("evaluate an unknown split", "evaluate", "--workdir={scene}/done --split=dev", "--split", "dev"),
    ("evaluate a split the run lacks", "evaluate", "--workdir={scene}/done --split=validation", "--split",
     "validation", "train, test"),
    ("evaluate unknown weights", "evaluate", "--workdir={scene}/done --weights=mean", "--weights", "auto, raw, ema",
     "mean"),
    ("evaluate an average of a run without", "evaluate", "--workdir={scene}/done --weights=ema", "--weights",
     "--ema_decay"),
    ("evaluate with an unknown augmentation", "evaluate", "--workdir={scene}/done --tta=flips", "--tta",
     "none, flip, shifts", "did you mean"),
    ("evaluate with a move of nothing", "evaluate", "--workdir={scene}/done --tta=shifts --tta_shift=0", "--tta_shift",
     "at least 1"),
    ("compare one run", "evaluate", "--compare={scene}/done", "--compare", "A,B", "{scene}/done"),
    ("compare a run with itself", "evaluate", "--compare={scene}/done,{scene}/./done", "--compare", "twice"),
    ("compare with a third one", "evaluate", "--compare={scene}/done,{scene}/used --workdir={scene}/other",
     "--workdir", "--compare", "{scene}/other"),
    ("compare and draw", "evaluate", "--compare={scene}/done,{scene}/used --output_dir={scene}/new", "--output_dir"),
    ("compare one checkpoint", "evaluate", "--compare={scene}/done,{scene}/used --checkpoint={scene}/done/best",
     "--checkpoint", "best or last"),
    ("compare with a missing folder", "evaluate", "--compare={scene}/done,{scene}/none", "{scene}/none"),
    ("compare on other data", "evaluate", "--compare={scene}/done,{scene}/other", "--compare", "{scene}/done (",
     "{scene}/other (", "aaaa", "bbbb"),
    ("compare on other validation images", "evaluate", "--compare={scene}/one_split,{scene}/other_split", "--compare",
     "--split_seed=0", "--split_seed=1"),
    ("pictures where there can be none", "evaluate", "--workdir={scene}/done --output_dir=/proc/cct_tf",
     "--output_dir", "/proc/cct_tf"),
    ("pictures in a file", "evaluate", "--workdir={scene}/done --output_dir={scene}/binary.cfg", "--output_dir",
     "binary.cfg"),
    ("no mistakes wanted", "evaluate", "--workdir={scene}/done --mistakes=0", "--mistakes", "at least 1"),
    ("compare no runs", "compare", "", "WORKDIR"),
    ("compare runs one of which is missing", "compare", "{scene}/done {scene}/none", "{scene}/none", "no such folder"),
    ("compare what is no run", "compare", "{scene}/done {scene}/empty", "{scene}/empty", "none of these"),
    ("compare a file", "compare", "{scene}/binary.cfg", "{scene}/binary.cfg"),
    ("compare a closed folder", "compare", "{locked}/../closed", "closed/", "ermission"),
    ("compare a link in a circle", "compare", "{scene}/loop", "{scene}/loop"),
    ("compare a run twice", "compare", "{scene}/done {scene}/other/../done", "WORKDIR", "once"),
    ("compare into no table", "compare", "{scene}/done --csv={scene}/x.txt", "--csv", ".csv", "x.txt"),
    ("compare into no picture", "compare", "--plot={scene}/x.svg {scene}/done", "--plot", ".png", "x.svg"),
    ("compare into a locked folder", "compare", "{scene}/done --csv={locked}/x.csv", "--csv", "{locked}", "ermission"),
    ("a misspelt flag of compare", "compare", "{scene}/done --cvs=x.csv", "--cvs", "csv"),
    ("cache of evaluate that is a word", "evaluate", "--workdir={scene}/done --compile_cache=on", "--compile_cache"),
    ("a flag of training", "evaluate", "--workdir={scene}/done --epochs=3", "--epochs"),
    ("predict with nothing", "predict", "", "--workdir"),
    ("predict no image", "predict", "--workdir={scene}/done", "IMAGE", "found none"),
    ("predict a missing image", "predict", "--workdir={scene}/done {scene}/none.png", "{scene}/none.png"),
    ("predict a pattern of nothing", "predict", "--workdir={scene}/done {scene}/*.png", "{scene}/*.png", "pattern"),
    ("predict a folder without images", "predict", "--workdir={scene}/done {scene}/empty", "{scene}/empty"),
    ("predict by a missing run", "predict", "--workdir={scene}/none {scene}/one", "--workdir", "{scene}/none"),
    ("predict by a closed folder", "predict", "--workdir={locked}/../closed /etc/passwd", "closed/best", "ermission"),
    ("predict by a file", "predict", "--workdir={scene}/binary.cfg {scene}/one", "--workdir", "{scene}/binary.cfg"),
    ("predict by a damaged checkpoint", "predict", "--workdir={scene}/damaged --checkpoint=last {scene}/one",
     "--checkpoint", "step_00000004/weights.index"),
    ("predict by an average of a run without", "predict", "--workdir={scene}/done --weights=ema {scene}/one",
     "--weights", "--ema_decay"),
    ("predict no class", "predict", "--workdir={scene}/done --top=0 {scene}/one", "--top", "at least 1"),
    ("predict in two forms", "predict", "--workdir={scene}/done --csv --json {scene}/one", "--csv", "--json"),
    ("maps where there can be none", "predict", "--workdir={scene}/done --attention=/proc/cct_tf {scene}/one",
     "--attention", "/proc/cct_tf"),
    ("pictures into a file", "predict", "--workdir={scene}/done --attention={scene}/binary.cfg {scene}/one",
     "--attention", "{scene}/binary.cfg"),
    ("every checkpoint damaged", "train", "--workdir={scene}/damaged --dry_run", "--restart_if_unreadable"),
    ("checkpoints of nothing", "checkpoints", "", "--workdir"),
    ("checkpoints of a missing folder", "checkpoints", "--workdir={scene}/none", "--workdir", "{scene}/none"),
    ("checkpoints of a file", "checkpoints", "--workdir={scene}/binary.cfg", "--workdir", "{scene}/binary.cfg"),
    ("checkpoints of a closed folder", "checkpoints", "--workdir={locked}/../closed", "closed/", "ermission"),
    ("checkpoints of a name too long", "checkpoints", "--workdir={scene}/" + 300 * "a", "aaa/", "too long"),
    ("checkpoints of an empty folder", "checkpoints", "--workdir={scene}/empty --json", "--workdir", "{scene}/empty"),
    ("damaged checkpoints", "checkpoints", "--workdir={scene}/damaged --verify", "step_00000004/weights.index",
     "step_00000002/run.json"),
    ("checkpoints without one", "checkpoints", "--workdir={scene}/done --prune=0", "--prune", "at least 1"),
    ("a try of nothing", "checkpoints", "--workdir={scene}/done --dry_run", "--dry_run", "--prune"),
    ("checkpoints of a run in use", "checkpoints", "--workdir={scene}/used --prune=1", "--workdir", "{scene}/used",
     "process 4712"),
    ("a misspelt flag of checkpoints", "checkpoints", "--workdir={scene}/done --verfy", "--verfy", "verify"),
    ("benchmark of nothing known", "benchmark", "--what=dinner", "--what", "input", "dinner"),
    ("benchmark without a repeat", "benchmark", "--repeats=0", "--repeats", "at least 1"),
    ("benchmark beside what is unknown", "benchmark", "--what=step --compare=torch", "--compare", "keras", "torch"),
    ("benchmark of an unknown model", "benchmark", "--what=step --model=cct_7_3x1", "--model", "cct_7_3x1"),
    ("benchmark without a class", "benchmark", "--what=step --classes=0", "--classes", "at least 1"),
    ("benchmark of the loop beside Keras", "benchmark", "--what=loop --compare=keras", "--compare", "--what=loop",
     "keras"),
    ("benchmark of what Keras can't train", "benchmark", "--what=step --compare=keras --ema_decay=0.9", "--ema_decay",
     "expected 0.0", "0.9"),
    ("benchmark of replicas beside Keras", "benchmark", "--what=step --compare=keras_jit --num_replicas=2",
     "--num_replicas", "expected 1"),
    ("benchmark of the loop without data", "benchmark", "--what=loop --dataset=folder", "--data_dir"),
    ("benchmark of an unknown policy", "benchmark", "--auto_augment=cifar11", "--auto_augment", "cifar11"),
    ("preview that is no PNG", "preview", "--output={scene}/x.jpg", "--output", ".png", "x.jpg"),
    ("preview in a missing folder", "preview", "--output={scene}/none/x.png", "--output", "none/x.png", "No such"),
    ("preview in a locked folder", "preview", "--output={locked}/x.png", "--output", "{locked}/x.png", "ermission"),
    ("preview of nothing", "preview", "--rows=0", "--rows", "at least 1"),
    ("preview of too much", "preview", "--rows=40 --columns=30", "--rows", "1000", "40", "30"),
    ("preview of an odd number of mixed rows", "preview", "--rows=3 --mixup_alpha=0.8", "--rows", "even", "found 3"),
    ("preview for an unknown model", "preview", "--model=cct_7_3x1", "--model", "cct_7_3x1"),
    ("convert nothing", "convert_torch", "", "--input"),
    ("convert to nowhere", "convert_torch", "--input={scene}/weights.pth --model=cct_2_3x1_16", "--output"),
    ("convert to an unknown kind", "convert_torch", "--input={scene}/weights.pth --model=cct_2_3x1_16 "
     "--output={scene}/x.pth", "--output", ".keras"),
    ("convert into a run", "convert_torch", "--input={scene}/weights.pth --model=cct_2_3x1_16 --output={scene}/done",
     "--output", "{scene}/done"),
    ("convert onto a file", "convert_torch", "--input={scene}/weights.pth --infer_model --output={scene}/words.cfg",
     "--output", "a file"),
    ("convert into a locked folder", "convert_torch", "--input=x --infer_model --output={locked}/x.keras", "--output",
     "{locked}/x.keras"),
    ("convert into a missing folder", "convert_torch", "--input=x --infer_model --output={scene}/none/x.keras",
     "--output", "none/x.keras"),
    ("convert to no network", "convert_torch", "--input={scene}/weights.pth --output={scene}/new", "--model",
     "--infer_model", "neither"),
    ("convert to a network twice", "convert_torch", "--input={scene}/weights.pth --output={scene}/new --infer_model "
     "--model=cct_2_3x1_16", "--infer_model", "both"),
    ("convert to an unknown network", "convert_torch", "--input={scene}/weights.pth --output={scene}/new "
     "--model=cct_7_3x1", "--model", "cct_7_3x1"),
    ("convert to positions that will be seen", "convert_torch", "--input={scene}/weights.pth --output={scene}/new "
     "--infer_model --positional_embedding=sine", "--positional_embedding", "--infer_model"),
    ("convert for an unknown data set", "convert_torch", "--input={scene}/weights.pth --output={scene}/new "
     "--infer_model --dataset=cifar11", "--dataset", "cifar11"),
    ("convert a missing file", "convert_torch", "--input={scene}/none.pth --infer_model --output={scene}/new",
     "{scene}/none.pth", "nothing"),
    ("convert a folder", "convert_torch", "--input={scene}/empty --infer_model --output={scene}/new",
     "{scene}/empty", "a folder"),
    ("convert words", "convert_torch", "--input={scene}/words.cfg --infer_model --output={scene}/new",
     "{scene}/words.cfg", ".safetensors"),
    ("convert code", "convert_torch", "--input={scene}/code.pth --infer_model --output={scene}/new",
     "{scene}/code.pth", "os.system"),
    ("convert other weights", "convert_torch", "--input={scene}/weights.pth --model=cct_2_3x1_16 --output={scene}/new",
     "{scene}/weights.pth", "missing: tokenizer.conv_layers.0.0.weight", "unused: 'classifier.fc.weigth'",
     "'classifier.fc.weight'"),
    ("convert the weights of no known network", "convert_torch", "--input={scene}/weights.pth --infer_model "
     "--output={scene}/new", "--infer_model", "{scene}/weights.pth", "--model"),
    ("convert to another's network", "convert_torch", "--input={scene}/weights.pth --model=vit_b_16_224 "
     "--output={scene}/new", "{scene}/weights.pth", "vit_b_16_224"),
    ("convert the average of a file without", "convert_torch", "--input={scene}/weights.pth --infer_model --state=ema "
     "--output={scene}/new", "{scene}/weights.pth", "--state=ema"),
    ("convert an unknown state", "convert_torch", "--input={scene}/weights.pth --state=best", "--state", "auto, model"),
    ("convert back to what is no safetensors", "convert_torch",
     "--to_torch --input={scene}/done --output={scene}/x.pth", "--output", ".safetensors"),
    ("convert back a missing folder", "convert_torch", "--to_torch --input={scene}/none --output={scene}/x.safetensors",
     "--input", "{scene}/none"),
    ("convert back a missing file", "convert_torch",
     "--to_torch --input={scene}/none.keras --output={scene}/x.safetensors", "--input", "none.keras"),
    ("convert back an average of a run without", "convert_torch",
     "--to_torch --input={scene}/done --weights=ema --output={scene}/x.safetensors", "--weights", "--ema_decay"),
    ("evaluate weights without a data set", "evaluate", "--workdir={scene}/converted", "{scene}/converted",
     "--dataset"),
    ("export nothing", "export", "", "--workdir"),
    ("export to no format", "export", "--workdir={scene}/done --output={scene}/x.onnx", "--format", "saved_model"),
    ("export to an unknown format", "export", "--workdir={scene}/done --format=tflite", "--format", "litert", "tflite"),
    ("export to nowhere", "export", "--workdir={scene}/done --format=keras", "--output"),
    ("export to another suffix", "export", "--workdir={scene}/done --format=onnx --output={scene}/x.tflite",
     "--output", ".onnx", "x.tflite"),
    ("export into a folder with files", "export", "--workdir={scene}/done --format=saved_model --output={scene}/one",
     "--output", "{scene}/one", "new or empty"),
    ("export onto a file", "export", "--workdir={scene}/done --format=saved_model --output={scene}/words.cfg",
     "--output", "a file"),
    ("export into a locked folder", "export", "--workdir={scene}/done --format=saved_model --output={locked}/a/1",
     "--output", "{locked}/a/1", "ermission"),
    ("export a file into a locked folder", "export", "--workdir={scene}/done --format=onnx --output={locked}/x.onnx",
     "--output", "{locked}/x.onnx", "ermission"),
    ("export to int8 what can't be", "export", "--workdir={scene}/done --format=keras --output={scene}/x.keras "
     "--quantize=int8", "--quantize", "--format=litert"),
    ("export to four bits", "export", "--workdir={scene}/done --format=litert --quantize=int4", "none, int8", "int4"),
    ("calibration of nothing", "export", "--workdir={scene}/done --format=keras --output={scene}/x.keras "
     "--calibration_images=9", "--calibration_images", "--quantize=int8"),
    ("export compared on nothing", "export", "--workdir={scene}/done --check_images=0", "--check_images", "at least 1"),
    ("export with two kinds of images", "export", "--workdir={scene}/done --format=keras --output={scene}/x.keras "
     "--data_dir={scene}/one {scene}/one", "--data_dir", "both"),
    ("export without the data set of the run", "export", "--workdir={scene}/folder --format=keras "
     "--output={scene}/x.keras --data_dir={scene}/none", "--data_dir", "{scene}/none", "IMAGE|FOLDER|PATTERN"),
    ("export compared with a missing image", "export", "--workdir={scene}/done --format=keras "
     "--output={scene}/x.keras {scene}/none.png", "{scene}/none.png"),
    ("export a missing run", "export", "--workdir={scene}/none --format=keras --output={scene}/x.keras", "--workdir",
     "{scene}/none"),
    ("export a damaged checkpoint", "export", "--workdir={scene}/damaged --checkpoint=last --format=keras "
     "--output={scene}/x.keras", "--checkpoint", "step_00000004/weights.index"),
    ("export an average of a run without", "export", "--workdir={scene}/done --format=keras --weights=ema "
     "--output={scene}/x.keras", "--weights", "--ema_decay"),
    ("export weights without a data set", "export", "--workdir={scene}/converted --format=keras "
     "--output={scene}/x.keras", "{scene}/converted", "--dataset"),
    ("predict by weights without a data set", "predict", "--workdir={scene}/converted {scene}/one",
     "{scene}/converted", "--dataset"),
    ("predict by an export that is missing", "predict", "--exported={scene}/none.keras {scene}/one", "--exported",
     "{scene}/none.keras", "nothing"),
    ("predict by a folder", "predict", "--exported={scene}/one {scene}/one", "--exported", "saved_model.pb"),
    ("predict by a file of another kind", "predict", "--exported={scene}/words.cfg {scene}/one", "--exported",
     ".tflite", "words.cfg"),
    ("predict by a file that does not say what it is", "predict", "--exported={scene}/bare.keras {scene}/one",
     "--exported", "{scene}/bare.keras", "cct_tf.export"),
    ("predict by an export with another description", "predict", "--exported={scene}/other.keras {scene}/one",
     "--exported", "{scene}/other.keras", "not of format 1"),
    ("predict by an export and a run", "predict", "--exported={scene}/bare.keras --workdir={scene}/done {scene}/one",
     "--workdir", "--exported"),
    ("maps of an export", "predict", "--exported={scene}/bare.keras --attention {scene}/one", "--attention",
     "--exported"),
    ("jax", "train", "--workdir={scene}/new", "KERAS_BACKEND", "jax"),
    ("torch", "train", "--workdir={scene}/new", "KERAS_BACKEND", "torch"),
    ("nonsense", "evaluate", "--workdir={scene}/done", "KERAS_BACKEND", "nonsense"),
]
FINE = [  # no error: status 0, nothing on stderr, these words on stdout
    ("help", "train", "--help", "Data set", "augmentation", "Network", "Optimisation", "The run", "--flagfile"),
    ("help for evaluate", "evaluate", "--help", "--split", "--checkpoint"),
    ("help for predict", "predict", "--help", "PATTERN", "--attention[=attention]", "--top=5", "--[no]csv"),
    ("help for preview", "preview", "--help", "--output", "--rows", "--columns", "--[no]ops", "--auto_augment"),
    ("help for convert_torch", "convert_torch", "--help", "--input", "--[no]infer_model", "--state", "--[no]to_torch"),
    ("help for export", "export", "--help", "--format", "litert", "--quantize", "--calibration_images", "PATTERN"),
    ("help for compare", "compare", "--help", "WORKDIR", "--csv", "--plot", "--[no]json"),
    ("runs side by side", "compare", "{scene}/done {scene}/used {scene}/other --csv={scene}/x.csv", "finished",
     "--keep_checkpoints (changes no result)", "no metrics.jsonl", "can't be compared", "aaaa", "bbbb", "wrote"),
    ("help for checkpoints", "checkpoints", "--help", "--[no]verify", "--prune", "best/"),
    ("checkpoints of a run", "checkpoints", "--workdir={scene}/done", "50.00% (step 4)", "run finished"),
    ("checkpoints of converted weights", "checkpoints", "--workdir={scene}/converted",
     "no         -            complete, converted by cct_tf.convert_torch, of no run"),
    ("what would go, while a run goes on", "checkpoints", "--workdir={scene}/used --prune=1 --dry_run",
     "would remove", "step_00000002"),
    ("a finished run again", "train", DONE, "finished", "step 4"),
    ("another cadence", "train", DONE + " --log_every_steps=7 --num_replicas=2", "--log_every_steps",
     "50 -> 7", "--num_replicas", "finished"),
]
TABLE = ([(name, "train", "--workdir={scene}/new " + arguments, *words) for name, arguments, *words in FLAGS + DATA]
         + OTHERS + FINE)


def _write_tree(root, files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGE)


def _write_archives(scene):
    x, y = np.zeros([6, 8, 8, 3], np.uint8), np.array([0, 1, 2, 0, 1, 2])
    whole = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    wrong = {"float": {"x_train": x / 255.0}, "five": {"x_train": np.zeros([6, 8, 8, 5], np.uint8)},
             "fewer": {"y_train": y[:5]}, "negative": {"y_train": y - 1}, "beyond": {"y_test": y + 5},
             "gap": {"y_train": y * 2}, "pickled": {"y_train": np.array([{}] * 6, object)}}
    for name, part in wrong.items():
        np.savez(scene / f"{name}.npz", **(whole | part))
    np.savez(scene / "key.npz", **{key: value for key, value in whole.items() if key != "y_test"})
    (scene / "cut.npz").write_bytes((scene / "gap.npz").read_bytes()[:-200])


def _write_run(workdir, fingerprint="a" * 64, **changes):
    """A finished run as far as its records tell: two checkpoints and the best."""
    settings = config.from_dict(FINISHED | {"workdir": str(workdir)} | changes)
    for name, step in (("checkpoints", 2), ("checkpoints", 4), ("best", 4)):
        folder = workdir / name / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "weights.index").write_bytes(b"index")
        (folder / "weights.data-00000-of-00001").write_bytes(b"data")
        run_record.write_record(folder, run_record.Record(
            settings.as_dict(), {"num_examples": {"train": 1438, "test": 359}, "fingerprint": fingerprint}, step, step,
            {"step": step, "top1": 0.5, "loss": 1.0}, step == 4, {}))


def _write_weights(scene):
    """A state dict of one tensor, one that tries to run something, and a folder of converted weights."""
    torch_files.write(scene / "weights.pth", {"classifier.fc.weigth": np.ones([3, 4], np.float32)}, "zip")
    system = torch_files.call(torch_files.name("os", "system"), "true")
    (scene / "code.pth").write_bytes(torch_files.legacy_bytes({"a": system}, {}))
    folder = scene / "converted/best/step_00000000"
    folder.mkdir(parents=True)
    run_record.write_record(folder, run_record.Record(config.from_dict({"workdir": "x"}).as_dict(),
                                                      {"num_examples": {}, "image_size": 32}, 0, 0, None, False, {}))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder of wrong files."""
    folder = tmp_path_factory.mktemp("scene")
    for name in ("empty", "nested"):
        (folder / name).mkdir()
    (folder / "empty.keras").write_bytes(b"")
    (folder / "odd/best/step_00000004/run.json").mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    (folder / "binary.cfg").write_bytes(bytes(range(128, 256)))
    (folder / "words.cfg").write_text("# two lines\nepochs 3\n")
    (folder / "circle.cfg").write_text("--flagfile=nested/back.cfg\n")
    (folder / "nested/back.cfg").write_text("--flagfile=../circle.cfg\n")
    (folder / "self.cfg").write_text("--flagfile=self.cfg\n")
    (folder / "comment.cfg").write_text("--batch_size=0  # none at all\n")
    (folder / "nested/outer.cfg").write_text("--flagfile=inner.cfg\n")
    (folder / "nested/inner.cfg").write_text("--seed=one\n")
    (folder / "nested/typo.cfg").write_text("--lerning_rate=1\n")
    _write_tree(folder, ["one/cat/1.png", "hollow/cat/1.png", "surprise/test/bird/1.png", "surprise/test/cat/1.png"])
    _write_tree(folder, [f"{root}/train/{name}/1.png" for root in ("surprise", "untested") for name in ("cat", "dog")])
    (folder / "hollow/dog").mkdir()
    _write_archives(folder)
    _write_weights(folder)
    for name, entry in (("bare", "config.json"), ("other", "cct_tf.json")):
        with zipfile.ZipFile(folder / f"{name}.keras", "w") as archive:
            archive.writestr(entry, "{}")
    for name in ("done", "damaged", "used"):
        _write_run(folder / name)
    _write_run(folder / "other", "b" * 64, keep_checkpoints=4)
    _write_run(folder / "folder", dataset="folder", data_dir=str(folder / "surprise"))
    for name, seed in (("one_split", 0), ("other_split", 1)):
        _write_run(folder / name, validation_fraction=0.1, split_seed=seed)
    (folder / "damaged/checkpoints/step_00000004/weights.index").write_bytes(b"inDex")
    (folder / "damaged/checkpoints/step_00000002/run.json").write_text('{"format": 1, "con')
    return folder


@pytest.fixture(scope="module")
def locked_folder():
    """A folder that this user, or `nobody` where this user is root, may not write to. Beside it, closed: nor read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "locked"
        path.mkdir(mode=0o555)
        path.with_name("closed").mkdir(mode=0o000)
        os.chmod(folder, 0o755)
        yield path


def _environment(name, words):
    return {"KERAS_BACKEND": name} if words[0] == "KERAS_BACKEND" else {}


@pytest.fixture(scope="module")
def outcomes(scene, locked_folder):
    """{name of the case: what happened}, of the whole table."""
    cases = [{"module": f"cct_tf.{module}", "argv": arguments.format(scene=scene, locked=locked_folder).split(),
              "env": _environment(name, words), "as_nobody": "{locked}" in arguments and os.geteuid() == 0}
             for name, module, arguments, *words in TABLE]
    (scene / "busy").mkdir()
    with contextlib.ExitStack() as stack:
        for name, process in (("busy", "4711"), ("used", "4712")):
            lock = stack.enter_context(open(scene / name / ".lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(process)
            lock.flush()
        environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        run = subprocess.run([sys.executable, str(REPO / "tests/without_tensorflow.py")], input=json.dumps(cases),
                             capture_output=True, text=True, env=environment | {"PYTHONPATH": str(REPO)}, check=True)
    assert run.stderr == ""
    return dict(zip((case[0] for case in TABLE), json.loads(run.stdout), strict=True))


def _ids(table):
    return [case[0] for case in table]


@pytest.mark.parametrize("case", TABLE[:-len(FINE)], ids=_ids(TABLE[:-len(FINE)]))
def test_wrong_input_is_one_line_and_status_2(case, outcomes, scene, locked_folder):
    name, _, _, *words = case
    outcome = outcomes[name]
    assert outcome["status"] == 2, outcome
    assert outcome["err"].startswith("error: ") and outcome["err"].count("\n") == 1, outcome["err"]
    for word in words:
        assert word.format(scene=scene, locked=locked_folder) in outcome["err"]


@pytest.mark.parametrize("case", FINE, ids=_ids(FINE))
def test_what_is_no_error_says_so_on_stdout(case, outcomes):
    name, _, _, *words = case
    outcome = outcomes[name]
    assert (outcome["status"], outcome["err"]) == (0, ""), outcome
    for word in words:
        assert word in outcome["out"]


def test_names_are_unique():
    assert len({case[0] for case in TABLE}) == len(TABLE)


def test_every_answer_is_quick(outcomes):
    assert {name: outcome["seconds"] for name, outcome in outcomes.items() if outcome["seconds"] > SECONDS} == {}


def test_a_refused_run_leaves_no_folder_and_no_change(outcomes, scene):
    assert not (scene / "new").exists()
    names = {path.name for path in (scene / "damaged/checkpoints").iterdir()}
    assert names == {"step_00000002", "step_00000004"}  # or the next start would take the folder for a new run


def test_help_lists_every_flag(outcomes):
    for name in config.FIELDS:
        assert f"--{name}" in outcomes["help"]["out"] or f"--[no]{name}" in outcomes["help"]["out"]


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """A folder for PYTHONPATH with packages that end the process when they are imported."""
    folder = tmp_path_factory.mktemp("path")
    for name in ("tensorflow", "keras"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    return folder


@pytest.mark.parametrize("arguments, status, words", [
    (["--workdir=new", "--batch_siez=3"], 2, ["--batch_siez", "batch_size"]),
    (["smoke.cfg"], 2, ["smoke.cfg", "--flagfile"]),
    (["--help"], 0, []),
])
def test_the_command_itself_answers_before_tensorflow(arguments, status, words, no_tensorflow, tmp_path):
    run = subprocess.run([sys.executable, "-m", "cct_tf.train", *arguments], cwd=tmp_path, capture_output=True,
                         text=True, env=os.environ | {"PYTHONPATH": f"{no_tensorflow}{os.pathsep}{REPO}"},
                         timeout=60)
    assert run.returncode == status
    assert run.stderr.count("\n") == (1 if status else 0)
    for word in words:
        assert word in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_comes_from(tmp_path):
    run = subprocess.run([sys.executable, "-m", "cct_tf.train", "--debug", "--seed=x"], cwd=tmp_path, text=True,
                         capture_output=True, env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=60)
    assert run.returncode == 2
    assert "Traceback" in run.stderr and run.stderr.splitlines()[-1].startswith("error: --seed")
