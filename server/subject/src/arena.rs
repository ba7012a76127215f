//! Storage for many short texts, addressed by 30-bit references.
//!
//! Owns the bytes and reuses what is freed, by size. Never compacts by itself: references must stay
//! valid, so [`crate::Trie`] rebuilds everything once too little of the arena is in use.

use alloc::{collections::BTreeMap, vec::Vec};

/// Texts start at multiples of this many bytes.
const UNIT_BYTES: usize = 4;
/// References stay below this, so that two bits of a `u32` remain for the holder's own use.
pub(crate) const REFERENCES_MAX: usize = 1 << 30;

/// A length prefix (one byte below 128, four bytes otherwise) and the text, padded to whole units.
/// A freed text's first unit holds the reference of the next free one of the same size.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    /// Size in units → head of a list of free places of that size.
    free: BTreeMap<u32, u32>,
    used_units: usize,
}

const END: u32 = u32::MAX;

impl Arena {
    /// Keeps a copy of `text`, which is shorter than 2³¹ bytes, and returns its reference.
    ///
    /// # Panics
    /// When 4 GiB of text are stored: the process is out of memory for other reasons long before.
    pub fn insert(&mut self, text: &[u8]) -> u32 {
        let units = units(text.len());
        let reference = match self.take_free(units) {
            Some(reference) => reference,
            None => {
                let reference = self.bytes.len() / UNIT_BYTES;
                assert!(reference + units as usize <= REFERENCES_MAX, "more than 4 GiB of filter text");
                self.bytes.resize(self.bytes.len() + units as usize * UNIT_BYTES, 0);
                reference as u32
            }
        };
        let start = reference as usize * UNIT_BYTES;
        let head = if text.len() < 128 {
            self.bytes[start] = text.len() as u8;
            1
        } else {
            // The top bit of the first byte says that the length takes four bytes.
            let length = text.len() as u32 | 1 << 31;
            self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
            4
        };
        self.bytes[start + head..start + head + text.len()].copy_from_slice(text);
        self.used_units += units as usize;
        reference
    }

    /// The text behind `reference`.
    #[inline]
    pub fn text(&self, reference: u32) -> &[u8] {
        let start = reference as usize * UNIT_BYTES;
        let first = self.bytes[start];
        if first < 128 { &self.bytes[start + 1..start + 1 + first as usize] } else { self.long_text(start) }
    }

    #[cold]
    fn long_text(&self, start: usize) -> &[u8] {
        let head = [self.bytes[start], self.bytes[start + 1], self.bytes[start + 2], self.bytes[start + 3]];
        let length = u32::from_be_bytes(head) & !(1 << 31);
        &self.bytes[start + 4..start + 4 + length as usize]
    }

    /// Frees the text behind `reference`, which must not be used again.
    pub fn remove(&mut self, reference: u32) {
        let units = units(self.text(reference).len());
        let next = self.free.insert(units, reference).unwrap_or(END);
        let start = reference as usize * UNIT_BYTES;
        self.bytes[start..start + 4].copy_from_slice(&next.to_le_bytes());
        self.used_units -= units as usize;
    }

    fn take_free(&mut self, units: u32) -> Option<u32> {
        let head = self.free.get_mut(&units)?;
        let reference = *head;
        let start = reference as usize * UNIT_BYTES;
        let link = &self.bytes[start..start + 4];
        let next = u32::from_le_bytes([link[0], link[1], link[2], link[3]]);
        if next == END {
            self.free.remove(&units);
        } else {
            *head = next;
        }
        Some(reference)
    }

    /// Bytes of live texts, prefixes and padding included.
    pub fn used_bytes(&self) -> usize {
        self.used_units * UNIT_BYTES
    }

    /// Bytes in use or free for reuse.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes held from the allocator.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

fn units(length: usize) -> u32 {
    let head = if length < 128 { 1 } else { 4 };
    (length + head).div_ceil(UNIT_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn texts_of_all_lengths_come_back_and_space_is_reused() {
        let mut arena = Arena::default();
        let texts: Vec<Vec<u8>> = (0..400).chain([5_000, 70_000]).map(|n| vec![(n % 251) as u8; n]).collect();
        let references: Vec<u32> = texts.iter().map(|text| arena.insert(text)).collect();
        for (text, reference) in texts.iter().zip(&references) {
            assert_eq!(arena.text(*reference), text);
        }
        let length = arena.len_bytes();
        for reference in &references {
            arena.remove(*reference);
        }
        assert_eq!(arena.used_bytes(), 0);
        for text in texts.iter().rev() {
            let reference = arena.insert(text);
            assert_eq!(arena.text(reference), text);
        }
        assert_eq!(arena.len_bytes(), length);
    }
}
