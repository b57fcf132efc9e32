"""What was measured, as lines for a person. No TensorFlow here."""

from cct_tf import sizes


def lines(found):
    """Lines of text of a measurement, the dict that `--json` prints."""
    return _TABLES[found["what"]](found)


def _rate(part):
    return f"{part['images_per_second']:9,.1f} images/s  ({part['lowest']:,.1f} to {part['highest']:,.1f})"


def _subject(found):
    jit = {"off": "graph mode", "encoder": "the encoder with XLA", "all": "XLA"}[found["jit"]]
    return (f"{found['model']}, batch {found['batch_size']}, {found['num_classes']} classes, "
            f"{found['parameters']:,} parameters; {found['device']}, {found['precision']}, {jit}, "
            f"micro-batches: {found['accumulate_steps']}")


def _machine(found):
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['cpu']}, {found['instruction_set']}, {found['processors']} processors; {versions}"


def _memory(found):
    return f"  peak memory     {found['peak_memory_gib']:9.2f} GiB"


def _step(found):
    peaks = ", ".join(f"{peak:,.0f} in {dtype}" for dtype, peak in found["peaks"].items())
    table = [_subject(found), f"  step            {_rate(found)}",
             f"  model           {found['model_gflops']:9,.1f} GFLOP/s, {found['percent_of_peak']:.1f}% of the matrix "
             f"products' peak ({peaks})", _memory(found)]
    if keras := found["keras"]:
        ratios = keras["ratios"]
        table += [f"  stock Keras     {_rate(keras)}  {'XLA' if keras['jit'] else 'graph mode'}, "
                  f"{keras['precision']}",
                  f"  ours / Keras    {keras['ratio']:9.2f}           ({min(ratios):.2f} to {max(ratios):.2f})"]
    return [*table, *_parts(found["parts"]), _machine(found)]


def _parts(found):
    """Of the step; none where they were not measured."""
    if not found:
        return []
    table = ["  a step:               ms     share              rate         floor"]
    for name, row in found["rows"].items():
        line = f"  {name:<12}{row['ms']:12,.2f}{row['percent']:9.1f}%"
        if name != "rest":
            rate = f"{row['gflops']:,.0f} GFLOP/s" if "gflops" in row else f"{row['gbytes']:,.1f} GB/s"
            line += f"{rate:>18}{row['floor_ms']:11,.2f} ms"
        table.append(line)
    return [*table, f"  {'whole step':<12}{found['step_ms']:12,.2f}   the parts, each by itself, add up to "
                    f"{found['sum_percent']:.0f}% of it; the rest is the difference, not measured",
            f"  floors: the products' peak, or a copy's {found['copy_gbytes_per_second']:,.1f} GB/s, which tensors in "
            "the cache may exceed"]


def _input(found):
    whole, stages, floor = found["microseconds"], found["stages"], found["decoding"]
    total = sum(stages.values())
    table = [f"input pipeline: {found['images_per_second']:,.0f} images/s ({found['lowest']:,.0f} to "
             f"{found['highest']:,.0f}), {found['cores']} cores, {sizes.shown(found['image_size'])}, "
             f"batch {found['batch_size']}", f"  {found['images']}",
             "  an image:            us    us processor"]
    table += [_time(name, taken, found["processor_stages"][name]) + f"  {100 * taken / total:5.1f}%"
              for name, taken in stages.items()]
    table.append(_time("whole", whole, found["processor_microseconds"])
                 + f"          the stages add up to {100 * total / whole:.0f}% of it")
    if floor:
        alone = floor["microseconds"]
        table.append(_time("decoding", alone, floor["processor_microseconds"])
                     + f"          alone: {1e6 / alone:,.0f} images/s; the whole takes {whole / alone:.2f} times that")
    return [*table, f"  in the training step: {', '.join(found['stages_in_step'])}"]


def _time(name, microseconds, processor_microseconds):
    return f"  {name:<12}{microseconds:12,.2f}{processor_microseconds:16,.2f}"


def _loop(found):
    timing = found["timing"]
    itself = (f"{timing['images_per_second']:,.1f} images/s, {100 * timing['input_wait_fraction']:.1f}% of the time "
              "waiting for input" if timing else "nothing; no log record fell into it")
    return [_subject(found), f"  loop            {_rate(found)}  {found['steps']:,} steps",
            f"  bare step       {found['step_images_per_second']:9,.1f} images/s",
            f"  loop / step     {found['percent_of_step']:9.1f}%",
            f"  log records, checkpoints saved meanwhile: {found['records']}, {found['checkpoints']}",
            f"  the loop says   {itself}", _memory(found), _machine(found)]


def _eval(found):
    return [_subject(found), f"  evaluation      {_rate(found)}  batch {found['eval_batch_size']}",
            f"  training step   {found['step_images_per_second']:9,.1f} images/s",
            f"  ratio           {found['ratio']:9.2f}", _memory(found), _machine(found)]


def _startup(found):
    table = []
    for name, part in (("warm cache of compiled code" if found["cold"] else "no cache of compiled code", found),
                       ("cold cache", found["cold"])):
        if part:
            table.append(f"{name}: first step completed after {part['seconds']:.1f} s "
                         f"({part['lowest']:.1f} to {part['highest']:.1f})")
            table += [f"  {seconds:6.1f} s  {phase}" for phase, seconds in part["phases"].items()]
            table.append(f"  {part['seconds'] - sum(part['phases'].values()):6.1f} s  the rest")
    return [*table, _machine(found)]


_TABLES = {"step": _step, "input": _input, "loop": _loop, "eval": _eval, "startup": _startup}
