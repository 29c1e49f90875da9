"""Writes tests/fixtures/axis/: one small axis in every form people save it in, and the numbers each must be read as.

Run from the repository root:  python tests/peers/make_axis_fixtures.py
Needs numpy, torch, safetensors; the versions used are in expected.json.
"""

import json
import pathlib
import zipfile

import numpy
import safetensors
import safetensors.torch
import torch

FOLDER = pathlib.Path("tests/fixtures/axis")
ROWS, WIDTH = 5, 8


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Eighths up to 8 are exact in every type used here, bfloat16 included.
    matrix = (torch.randint(-60, 60, (ROWS, WIDTH), generator=torch.Generator().manual_seed(7)) / 8).float()
    vector = matrix[2].clone()
    array = matrix.numpy()

    numpy.save(FOLDER / "vector.npy", array[2])
    numpy.save(FOLDER / "matrix.npy", array)
    numpy.save(FOLDER / "matrix_f64.npy", array.astype("f8"))
    numpy.save(FOLDER / "matrix_f16.npy", array.astype("f2"))
    numpy.save(FOLDER / "matrix_fortran.npy", numpy.asfortranarray(array))
    numpy.save(FOLDER / "big_endian.npy", array.astype(">f4"))
    numpy.save(FOLDER / "cube.npy", array.reshape(ROWS, 2, 4))
    numpy.savez(FOLDER / "one.npz", axis=array)
    numpy.savez_compressed(FOLDER / "several.npz", axis=array, other=array[1], count=numpy.arange(3))

    torch.save(matrix, FOLDER / "bare.pt")
    torch.save({"axis": matrix.bfloat16()}, FOLDER / "dict_bf16.pt")
    torch.save({"axis": matrix.half(), "note": "a text", "epoch": 3}, FOLDER / "dict_f16.pt")
    torch.save({"layers": {4: vector, 7: vector.double()}, "rows": [matrix]}, FOLDER / "nested.pt")
    torch.save(matrix.t().contiguous().t(), FOLDER / "strided.pt")
    torch.save(torch.cat([torch.zeros(3, WIDTH), matrix])[3:], FOLDER / "offset.pt")
    torch.save(torch.nn.Parameter(matrix), FOLDER / "parameter.pt")
    torch.save(torch.arange(WIDTH), FOLDER / "integers.pt")
    torch.save({"axis": array}, FOLDER / "numpy_inside.pt")
    torch.save(matrix, FOLDER / "protocol4.pt", pickle_protocol=4)
    torch.save(matrix, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)

    safetensors.torch.save_file({"direction": matrix.bfloat16().contiguous()}, FOLDER / "plain.safetensors")
    with zipfile.ZipFile(FOLDER / "stranger.zip", "w") as archive:
        archive.writestr("readme.txt", "no tensor here")

    expected = {
        "versions": {"numpy": numpy.__version__, "torch": torch.__version__, "safetensors": safetensors.__version__},
        "matrix": matrix.tolist(),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
