//! Tests of the readers of foreign axis files.

mod axis;
