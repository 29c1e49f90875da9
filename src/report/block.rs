//! The parts that a section of the report is made of, independent of the output format.

use crate::table::Table;

/// A part of the report. Text is plain; the writer of a format escapes it.
pub(crate) enum Block {
    /// Level from 1, and the words.
    Heading(usize, String),
    /// A paragraph.
    Text(String),
    Table(Table),
    /// The place of the next figure, with its caption.
    Figure(String),
    /// Text to be shown letter by letter.
    Code(String),
    /// Notes; names in them stand between backticks.
    List(Vec<String>),
    /// Words, and the file beside the report that they lead to.
    Links(Vec<(String, String)>),
}
