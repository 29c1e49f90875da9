//! Converts `.npy`, `.npz`, `.pt` and `.safetensors` files into an [`AxisFile`](tiltmeter_model::AxisFile): [`import`] with an [`ImportRequest`].
//!
//! Rows of a matrix: with the index base `block`, row i is `block.{i}.out`; with `hidden_states`, row i is Hugging Face's `hidden_states[i]`,
//! so that row 0 is `embed` and row L is `final_norm` (see [`Site`](tiltmeter_model::Site)).
//!
//! | file | |
//! |---|---|
//! | `import.rs` | format detection, choice of the tensor, sites of its rows |
//! | `npy.rs` | NumPy's `.npy` and `.npz` |
//! | `torch.rs` | PyTorch's `.pt` |
//! | `tensor.rs` | numbers, strides and conversion to f32 |
//!
//! Nothing is guessed: which tensor and which site are either in the file or in the request. No pickle is executed. No size stated in a
//! file is allocated before it is compared with the bytes present.

mod import;
mod npy;
mod pickle_limits;
mod tensor;
mod torch;

pub use import::{ImportRequest, import};
