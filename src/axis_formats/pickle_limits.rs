//! What unpickling would cost, found without doing it. A few bytes can ask for any amount: `memo get` copies an object, which doubles it
//! as often as the file likes; nested lists overflow the stack of whoever walks them; a text may claim any length.

use std::collections::HashMap;

/// Objects of the largest file of tensors; a checkpoint of hundreds of tensors has some ten thousand.
const MAX_OBJECTS: u64 = 2_000_000;
const MAX_BYTES: u64 = 64 << 20;
/// Levels of nesting; a tensor in a dict has about six.
const MAX_DEPTH: u32 = 64;

/// Size of one object with everything in it.
#[derive(Clone, Copy, Default)]
struct Size {
    objects: u64,
    bytes: u64,
    depth: u32,
}

impl Size {
    fn leaf(bytes: u64) -> Self {
        Self { objects: 1, bytes, depth: 1 }
    }

    fn include(&mut self, inner: Self) {
        self.objects = self.objects.saturating_add(inner.objects);
        self.bytes = self.bytes.saturating_add(inner.bytes);
        self.depth = self.depth.max(inner.depth.saturating_add(1));
    }
}

/// Walks the opcodes with the sizes of the objects in place of the objects. What is no opcode, or no valid program, is left to the
/// unpickler to refuse.
///
/// # Errors
/// What would be too much.
pub(super) fn check(pickle: &[u8]) -> Result<(), String> {
    let mut meter = Meter { rest: pickle, stack: Vec::new(), memo: HashMap::new(), made: Size::default() };
    while meter.step()?.is_some() {}
    Ok(())
}

struct Meter<'a> {
    rest: &'a [u8],
    /// `None` is a mark.
    stack: Vec<Option<Size>>,
    memo: HashMap<u32, Size>,
    /// Everything that was ever made or copied.
    made: Size,
}

impl Meter<'_> {
    /// `None` at the end of what can be followed.
    fn step(&mut self) -> Result<Option<()>, String> {
        let Some(opcode) = self.take(1).map(|bytes| bytes[0]) else { return Ok(None) };
        Ok(match opcode {
            0x80 => self.take(1).map(|_| ()),
            b'(' => {
                self.stack.push(None);
                Some(())
            }
            b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | b'd' => return self.make(Size::leaf(0)),
            b'K' => return self.scalar(1),
            b'M' => return self.scalar(2),
            b'J' => return self.scalar(4),
            b'G' => return self.scalar(8),
            0x8a => return self.counted(1),
            b'X' => return self.counted(4),
            b'c' => {
                let (Some(_), Some(_)) = (self.line(), self.line()) else { return Ok(None) };
                return self.make(Size::leaf(0));
            }
            0x85..=0x87 => return self.collect(usize::from(opcode - 0x84)),
            b'R' | 0x81 => return self.collect(2),
            b'Q' => return self.collect(1),
            b't' => match self.marked() {
                Some(inner) => return self.make(inner),
                None => None,
            },
            b'a' | b'b' => return self.extend(1),
            b's' => return self.extend(2),
            b'e' | b'u' => match self.marked() {
                Some(inner) => return self.grow(inner),
                None => None,
            },
            b'q' | b'r' => match (self.id(opcode == b'q'), self.stack.last()) {
                (Some(id), Some(Some(size))) => {
                    let size = *size;
                    self.memo.insert(id, size);
                    return self.count(size);
                }
                _ => None,
            },
            b'h' | b'j' => match self.id(opcode == b'h').and_then(|id| self.memo.get(&id).copied()) {
                Some(size) => return self.make(size),
                None => None,
            },
            _ => None,
        })
    }

    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    fn line(&mut self) -> Option<()> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        self.rest = &self.rest[end + 1..];
        Some(())
    }

    fn id(&mut self, short: bool) -> Option<u32> {
        let bytes = self.take(if short { 1 } else { 4 })?;
        Some(bytes.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte)))
    }

    fn scalar(&mut self, bytes: usize) -> Result<Option<()>, String> {
        if self.take(bytes).is_none() {
            return Ok(None);
        }
        self.make(Size::leaf(0))
    }

    /// A text or integer behind its length of `width` bytes.
    fn counted(&mut self, width: usize) -> Result<Option<()>, String> {
        let Some(length) = self.take(width).map(|b| b.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)))
        else {
            return Ok(None);
        };
        if length > self.rest.len() as u64 {
            return Err(format!("a text of {length} bytes is longer than the file"));
        }
        self.take(length as usize);
        self.make(Size::leaf(length))
    }

    /// A new object of the last `n`.
    fn collect(&mut self, n: usize) -> Result<Option<()>, String> {
        match self.popped(n) {
            Some(inner) => self.make(inner),
            None => Ok(None),
        }
    }

    /// The last `n` go into the object below them.
    fn extend(&mut self, n: usize) -> Result<Option<()>, String> {
        match self.popped(n) {
            Some(inner) => self.grow(inner),
            None => Ok(None),
        }
    }

    fn popped(&mut self, n: usize) -> Option<Size> {
        let mut size = Size::leaf(0);
        for _ in 0..n {
            size.include(self.stack.pop()??);
        }
        Some(size)
    }

    fn marked(&mut self) -> Option<Size> {
        let mut size = Size::leaf(0);
        while let Some(inner) = self.stack.pop()? {
            size.include(inner);
        }
        Some(size)
    }

    fn grow(&mut self, inner: Size) -> Result<Option<()>, String> {
        let Some(Some(top)) = self.stack.last_mut() else { return Ok(None) };
        top.objects = top.objects.saturating_add(inner.objects);
        top.bytes = top.bytes.saturating_add(inner.bytes);
        top.depth = top.depth.max(inner.depth);
        let top = *top;
        Self::within(top)?;
        Ok(Some(()))
    }

    fn make(&mut self, size: Size) -> Result<Option<()>, String> {
        self.stack.push(Some(size));
        self.count(size)
    }

    fn count(&mut self, size: Size) -> Result<Option<()>, String> {
        self.made.objects = self.made.objects.saturating_add(size.objects);
        self.made.bytes = self.made.bytes.saturating_add(size.bytes);
        Self::within(Size { depth: size.depth, ..self.made })?;
        Ok(Some(()))
    }

    fn within(size: Size) -> Result<(), String> {
        if size.objects > MAX_OBJECTS || size.bytes > MAX_BYTES {
            return Err(format!("more than {MAX_OBJECTS} objects, or {} MiB of text", MAX_BYTES >> 20));
        }
        if size.depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_without_end_is_refused_before_it_is_made() {
        let doubling = [b"\x80\x02]q\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(40), b".".to_vec()].concat();
        assert!(check(&doubling).unwrap_err().contains("objects"));
        let lists = [vec![b']'; 1000], vec![b'a'; 999], vec![b'.']].concat();
        assert!(check(&lists).unwrap_err().contains("deep"));
        let tuples = [b")".to_vec(), vec![0x85; 1000], b".".to_vec()].concat();
        assert!(check(&tuples).unwrap_err().contains("deep"));
        let states = [b"]".to_vec(), b"]q\x00h\x00a".repeat(70), b".".to_vec()].concat();
        assert!(check(&states).is_ok(), "growing one after the other is not deep");
        assert!(check(b"X\xff\xff\xff\xffabc").unwrap_err().contains("longer than the file"));
        assert!(check(b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.").is_ok());
        for length in 0..doubling.len().min(40) {
            check(&doubling[..length]).unwrap();
        }
    }
}
