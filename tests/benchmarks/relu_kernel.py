"""The deep ReLU correlation map beside neural-tangents, on an equal network: 48 layers, 101 correlations.

neural-tangents 0.6.5 needs a jax from before 0.4.31 and so an environment of its own. Name its interpreter in
NSLAB_NEURAL_TANGENTS, for example after

    python -m venv nt && nt/bin/pip install neural-tangents "jax[cpu]==0.4.30" "numpy<2.2" "tf2jax==0.3.6"

Without it these rows are left out, and a line says so.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import torch

from nslab.propagation import relu_depth
from tests.benchmarks.harness import Row, cpu_seconds, faster

LAYERS, POINTS, REPEATS = 48, 101, 9
PEER = f"""
import json, statistics, time
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from neural_tangents import stax
layers = [part for _ in range({LAYERS}) for part in (stax.Dense(1, W_std=2**0.5), stax.Relu())]
kernel = stax.serial(*layers, stax.Dense(1, W_std=2**0.5))[2]
rho = np.linspace(0, 1, {POINTS})
x = jnp.array([[1.0, 0.0]]) * 2**0.5
y = jnp.array(np.stack([rho, np.sqrt(1 - rho**2)], 1)) * 2**0.5
run = lambda x, y: kernel(x, y, "nngp")
def timed(f):
    f(x, y).block_until_ready()
    found = []
    for _ in range({REPEATS}):
        start = time.process_time()
        value = f(x, y).block_until_ready()
        found.append(time.process_time() - start)
    return value, statistics.median(found)
value, plain = timed(run)
value, compiled = timed(jax.jit(run))
print(json.dumps(dict(value=np.asarray(value)[0].tolist(), plain=plain, compiled=compiled)))
"""


def rows() -> list[Row]:
    """Two rows, the peer called plainly and compiled; none where neural-tangents is not installed."""
    interpreter = os.environ.get("NSLAB_NEURAL_TANGENTS")
    if not interpreter:
        print("  neural-tangents: not timed; name an interpreter that has it in NSLAB_NEURAL_TANGENTS")
        return []
    one = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:  # an empty one: nothing in it can shadow a module of the peer
        script = Path(folder) / "peer.py"
        script.write_text(PEER)
        command = [interpreter, str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | one, cwd=folder)
    peer = json.loads(done.stdout.splitlines()[-1])
    rho = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    gap = (relu_depth(rho, LAYERS, "he")[-1] - torch.tensor(peer["value"], dtype=torch.float64) / 2).abs().max()
    assert gap < 1e-6, f"the two kernels differ by {gap:.1e}"
    ours = cpu_seconds(lambda: relu_depth(rho, LAYERS, "he"))
    note = f"kernel of {LAYERS} ReLU layers at {POINTS} correlations, double precision; equal to {gap:.0e}"
    return [
        faster(f"deep ReLU map, {name}", ours, f"neural-tangents 0.6.5, {name}", peer[key], note=note)
        for name, key in (("called", "plain"), ("compiled by jax", "compiled"))
    ]
