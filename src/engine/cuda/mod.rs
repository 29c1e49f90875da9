//! Owns the engine on a GPU: what lies where in its memory, and how a pass is made of launches.
//! Must not know: text, experiments, how a kernel computes.

mod pages;
