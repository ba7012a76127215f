//! The index of filters.
//!
//! Owns filter texts and the answer to "which filters match this subject". Literal filters, the
//! many, live in one flat hash table; wildcard filters in a trie whose edges live in one table keyed
//! by (parent, token). Everything is an index into a vector: about 10 bytes and the text for a
//! literal filter, 24 bytes and the token for a trie node.
//! Never knows subscriptions: a [`FilterId`] is dense, so callers keep their own vector by it.

use crate::arena::{Arena, REFERENCES_MAX};
use crate::grammar::{collide, has_empty_token, is_literal, is_valid, tokens};
use crate::hashing::{fold, hash};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use hashbrown::HashTable;

/// A filter's number: dense from 0, reused after [`Trie::remove`]. Below 2³⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(u32);

impl FilterId {
    /// As an index into a vector kept by filter.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// As a bare number.
    #[inline]
    pub fn value(self) -> u32 {
        self.0
    }

    /// The id whose [`FilterId::value`] is `value`.
    #[inline]
    pub fn from_value(value: u32) -> FilterId {
        FilterId(value)
    }
}

/// What a [`Trie`] holds, in counts and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Filters without wildcards.
    pub literals: usize,
    /// Filters with wildcards.
    pub wildcards: usize,
    /// Trie nodes in use, the root included.
    pub nodes: usize,
    /// Bytes of live text, with length prefixes and padding.
    pub text_bytes: usize,
    /// Bytes held from the allocator by all tables.
    pub total_bytes: usize,
}

const NIL: u32 = u32::MAX;

/// A set of filters with numbers. See the module's head.
#[derive(Debug)]
pub struct Trie {
    seed: u64,
    arena: Arena,
    entries: Vec<Entry>,
    free_entries: u32,
    literals: HashTable<u32>,
    nodes: Vec<Node>,
    free_nodes: u32,
    edges: HashTable<u32>,
    live: usize,
    live_nodes: usize,
    /// Entries in use from [`Trie::upper_start`] on.
    upper_used: usize,
}

/// Where a filter is: two bits of kind above 30 bits of reference.
#[derive(Clone, Copy, Debug)]
struct Entry(u32);

enum Place {
    /// Arena reference of the text.
    Literal(u32),
    /// Node at which the filter ends.
    Node(u32),
    /// Node below which the filter's `>` stands.
    Tail(u32),
    /// Next free entry.
    Free(u32),
}

impl Entry {
    const BITS: u32 = 30;
    const NONE: u32 = (1 << Self::BITS) - 1;

    #[inline]
    fn place(self) -> Place {
        let reference = self.0 & Self::NONE;
        match self.0 >> Self::BITS {
            0 => Place::Literal(reference),
            1 => Place::Node(reference),
            2 => Place::Tail(reference),
            _ => Place::Free(if reference == Self::NONE { NIL } else { reference }),
        }
    }

    fn new(place: Place) -> Entry {
        let (kind, reference) = match place {
            Place::Literal(reference) => (0, reference),
            Place::Node(node) => (1, node),
            Place::Tail(node) => (2, node),
            Place::Free(next) => (3, next & Self::NONE),
        };
        Entry(kind << Self::BITS | reference)
    }
}

/// One token position of wildcard filters.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// `NIL` for the root; the next free node for a free one.
    parent: u32,
    /// Arena reference of the token; `NIL` for `*` and the root.
    token: u32,
    /// Filter that ends here.
    filter: u32,
    /// Filter that ends in a `>` below here.
    tail: u32,
    /// The `*` child.
    star: u32,
    /// How many children hang on edges.
    edges: u32,
}

const ROOT: u32 = 0;

impl Node {
    fn new(parent: u32, token: u32) -> Node {
        Node { parent, token, filter: NIL, tail: NIL, star: NIL, edges: 0 }
    }

    fn is_empty(&self) -> bool {
        self.filter == NIL && self.tail == NIL && self.star == NIL && self.edges == 0
    }
}

/// Below these sizes a rebuild saves nothing worth the work.
const REBUILD_BYTES_MIN: usize = 64 * 1024;
const REBUILD_ENTRIES_MIN: usize = 4 * 1024;

impl Trie {
    /// An empty index whose tables hash under `seed`: give every process a secret of its own, or
    /// clients can choose subjects that collide.
    pub fn new(seed: u64) -> Trie {
        Trie {
            seed,
            arena: Arena::default(),
            entries: Vec::new(),
            free_entries: NIL,
            literals: HashTable::new(),
            nodes: Vec::new(),
            free_nodes: NIL,
            edges: HashTable::new(),
            live: 0,
            live_nodes: 0,
            upper_used: 0,
        }
    }

    /// The hash [`Trie::matches`] asks for: [`hash`] under this index's seed.
    #[inline]
    pub fn hash(&self, subject: &[u8]) -> u64 {
        hash(self.seed, subject)
    }

    /// How many filters are stored.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether no filter is stored.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// All ids in use are below this; a caller may cut its own vectors to it.
    pub fn ids_end(&self) -> usize {
        self.entries.len()
    }

    /// Adds `filter` and returns its id and whether it is new.
    ///
    /// Callers check [`crate::is_valid`] first. An invalid filter is kept as text and found again, but
    /// only a subject of exactly the same bytes matches it.
    ///
    /// # Panics
    /// Beyond 2³⁰ filters or nodes, or 4 GiB of text: long out of memory.
    pub fn insert(&mut self, filter: &[u8]) -> (FilterId, bool) {
        if let Some(id) = self.find(filter) {
            return (id, false);
        }
        let id = self.take_entry();
        self.place(id, filter);
        self.live += 1;
        self.upper_used += usize::from(id as usize >= self.upper_start());
        (FilterId(id), true)
    }

    /// The id of `filter`, byte for byte: wildcards match only themselves.
    pub fn find(&self, filter: &[u8]) -> Option<FilterId> {
        if is_flat(filter) {
            return self.find_literal(filter, self.hash(filter));
        }
        let mut node = self.nodes.get(ROOT as usize).map(|_| ROOT)?;
        let mut found = NIL;
        for token in tokens(filter) {
            match token {
                b">" => {
                    found = self.nodes[node as usize].tail;
                    return (found != NIL).then_some(FilterId(found));
                }
                b"*" => node = self.nodes[node as usize].star,
                _ => node = self.edge(node, token).unwrap_or(NIL),
            }
            if node == NIL {
                return None;
            }
            found = self.nodes[node as usize].filter;
        }
        (found != NIL).then_some(FilterId(found))
    }

    /// Forgets a filter and frees what only it used for other filters; its id may be given out again. An id that
    /// is not in use is ignored. To give the memory back, see [`Trie::is_sparse`].
    pub fn remove(&mut self, id: FilterId) {
        let Some(entry) = self.entries.get(id.index()).copied() else { return };
        match entry.place() {
            Place::Literal(reference) => {
                let key = hash(self.seed, self.arena.text(reference));
                if let Ok(slot) = self.literals.find_entry(key, |other| *other == id.0) {
                    slot.remove();
                }
                self.arena.remove(reference);
            }
            Place::Node(node) => {
                self.nodes[node as usize].filter = NIL;
                self.prune(node);
            }
            Place::Tail(node) => {
                self.nodes[node as usize].tail = NIL;
                self.prune(node);
            }
            Place::Free(_) => return,
        }
        self.entries[id.index()] = Entry::new(Place::Free(self.free_entries));
        self.free_entries = id.0;
        self.live -= 1;
        self.upper_used -= usize::from(id.index() >= self.upper_start());
    }

    /// Appends the text of filter `id` to `out`; nothing for an id not in use.
    pub fn text(&self, id: FilterId, out: &mut Vec<u8>) {
        match self.entries.get(id.index()).map(|entry| entry.place()) {
            Some(Place::Literal(reference)) => out.extend_from_slice(self.arena.text(reference)),
            Some(Place::Node(node)) => self.path(node, false, out),
            Some(Place::Tail(node)) => self.path(node, true, out),
            Some(Place::Free(_)) | None => {}
        }
    }

    /// Appends the ids of all filters that match the literal `subject`, whose [`Trie::hash`] is
    /// `hash`. Each once, in no particular order. Allocates only to grow `out`, and where more
    /// than eight wildcards are undecided at once.
    #[inline]
    pub fn matches(&self, subject: &[u8], hash: u64, out: &mut Vec<FilterId>) {
        if let Some(id) = self.find_literal(subject, hash) {
            out.push(id);
        }
        if self.live_nodes > 0 {
            let _ = self.walk(subject, |id| {
                out.push(id);
                ControlFlow::Continue(())
            });
        }
    }

    /// Whether any filter matches the literal `subject`.
    pub fn has_match(&self, subject: &[u8]) -> bool {
        self.find_literal(subject, self.hash(subject)).is_some()
            || (self.live_nodes > 0 && self.walk(subject, |_| ControlFlow::Break(())).is_break())
    }

    /// Appends the ids of all filters that share a subject with `filter`, wildcards allowed on both
    /// sides. Looks at every stored filter unless `filter` is literal: for rare questions (imports,
    /// permissions of a wildcard subscription, monitoring), not for messages.
    pub fn matches_filter(&self, filter: &[u8], out: &mut Vec<FilterId>) {
        if is_literal(filter) {
            return self.matches(filter, self.hash(filter), out);
        }
        let mut text = Vec::new();
        for id in self.iter() {
            text.clear();
            self.text(id, &mut text);
            if collide(filter, &text) {
                out.push(id);
            }
        }
    }

    /// All ids in use, ascending.
    pub fn iter(&self) -> impl Iterator<Item = FilterId> + '_ {
        let used = |entry: &Entry| !matches!(entry.place(), Place::Free(_));
        self.entries
            .iter()
            .enumerate()
            .filter(move |(_, entry)| used(entry))
            .map(|(index, _)| FilterId(index as u32))
    }

    /// What is stored and what it costs.
    pub fn memory(&self) -> Memory {
        let tables = self.literals.allocation_size() + self.edges.allocation_size();
        let vectors =
            self.entries.capacity() * size_of::<Entry>() + self.nodes.capacity() * size_of::<Node>();
        Memory {
            literals: self.literals.len(),
            wildcards: self.live - self.literals.len(),
            nodes: self.live_nodes,
            text_bytes: self.arena.used_bytes(),
            total_bytes: tables + vectors + self.arena.capacity_bytes(),
        }
    }

    #[inline]
    fn find_literal(&self, subject: &[u8], hash: u64) -> Option<FilterId> {
        self.literals
            .find(hash, |id| literal_text(&self.arena, &self.entries, *id) == subject)
            .map(|id| FilterId(*id))
    }

    #[inline]
    fn edge(&self, parent: u32, token: &[u8]) -> Option<u32> {
        self.edges
            .find(edge_hash(self.seed, parent, token), |child| {
                let node = &self.nodes[*child as usize];
                node.parent == parent && self.arena.text(node.token) == token
            })
            .copied()
    }

    fn take_entry(&mut self) -> u32 {
        if self.free_entries == NIL {
            assert!(self.entries.len() < REFERENCES_MAX - 1, "more than 2^30 filters");
            if self.entries.len().is_power_of_two() {
                self.upper_used = 0; // the upper half begins anew, with this entry
            }
            self.entries.push(Entry::new(Place::Free(NIL)));
            return self.entries.len() as u32 - 1;
        }
        let id = self.free_entries;
        if let Place::Free(next) = self.entries[id as usize].place() {
            self.free_entries = next;
        }
        id
    }

    /// Writes `filter` into the tables under `id`, which must not be in them.
    fn place(&mut self, id: u32, filter: &[u8]) {
        if is_flat(filter) {
            let reference = self.arena.insert(filter);
            self.entries[id as usize] = Entry::new(Place::Literal(reference));
            let (seed, arena, entries) = (self.seed, &self.arena, &self.entries);
            self.literals.insert_unique(hash(seed, filter), id, |other| {
                hash(seed, literal_text(arena, entries, *other))
            });
            return;
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node::new(NIL, NIL));
            self.live_nodes = 1;
        }
        let mut node = ROOT;
        for token in tokens(filter) {
            match token {
                b">" => {
                    self.nodes[node as usize].tail = id;
                    self.entries[id as usize] = Entry::new(Place::Tail(node));
                    return;
                }
                b"*" => node = self.star_child(node),
                _ => node = self.edge_child(node, token),
            }
        }
        self.nodes[node as usize].filter = id;
        self.entries[id as usize] = Entry::new(Place::Node(node));
    }

    fn star_child(&mut self, parent: u32) -> u32 {
        let star = self.nodes[parent as usize].star;
        if star != NIL {
            return star;
        }
        let child = self.take_node(Node::new(parent, NIL));
        self.nodes[parent as usize].star = child;
        child
    }

    fn edge_child(&mut self, parent: u32, token: &[u8]) -> u32 {
        if let Some(child) = self.edge(parent, token) {
            return child;
        }
        let reference = self.arena.insert(token);
        let child = self.take_node(Node::new(parent, reference));
        self.nodes[parent as usize].edges += 1;
        let (seed, arena, nodes) = (self.seed, &self.arena, &self.nodes);
        self.edges.insert_unique(edge_hash(seed, parent, token), child, |other| {
            let node = &nodes[*other as usize];
            edge_hash(seed, node.parent, arena.text(node.token))
        });
        child
    }

    fn take_node(&mut self, node: Node) -> u32 {
        self.live_nodes += 1;
        if self.free_nodes == NIL {
            assert!(self.nodes.len() < REFERENCES_MAX - 1, "more than 2^30 nodes");
            self.nodes.push(node);
            return self.nodes.len() as u32 - 1;
        }
        let index = self.free_nodes;
        self.free_nodes = self.nodes[index as usize].parent;
        self.nodes[index as usize] = node;
        index
    }

    /// Frees `node` and its ancestors as far as they hold nothing.
    fn prune(&mut self, mut index: u32) {
        loop {
            let node = self.nodes[index as usize];
            if !node.is_empty() {
                return;
            }
            if index == ROOT {
                // Last wildcard gone: matching skips the trie from here on.
                self.nodes = Vec::new();
                self.free_nodes = NIL;
                self.live_nodes = 0;
                return;
            }
            if node.token == NIL {
                self.nodes[node.parent as usize].star = NIL;
            } else {
                let key = edge_hash(self.seed, node.parent, self.arena.text(node.token));
                if let Ok(slot) = self.edges.find_entry(key, |child| *child == index) {
                    slot.remove();
                }
                self.arena.remove(node.token);
                self.nodes[node.parent as usize].edges -= 1;
            }
            self.nodes[index as usize].parent = self.free_nodes;
            self.free_nodes = index;
            self.live_nodes -= 1;
            index = node.parent;
        }
    }

    /// Appends the text of the filter that ends at `node`, or with a `>` below it.
    fn path(&self, node: u32, tail: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let token = |index: u32| match self.nodes[index as usize].token {
            NIL => &b"*"[..],
            reference => self.arena.text(reference),
        };
        // Written backwards from the last token, then turned around.
        if tail {
            out.push(b'>');
        }
        let mut index = node;
        while index != ROOT {
            if out.len() > start {
                out.push(b'.');
            }
            out.extend(token(index).iter().rev());
            index = self.nodes[index as usize].parent;
        }
        out[start..].reverse();
    }

    /// Calls `found` for every wildcard filter that matches `subject`, until it breaks.
    #[inline]
    fn walk(&self, subject: &[u8], found: impl FnMut(FilterId) -> ControlFlow<()>) -> ControlFlow<()> {
        if subject.len() <= SEPARATORS_BYTES_MAX {
            let separators = separators(subject);
            if has_empty_token_at(subject.len(), separators) {
                return ControlFlow::Continue(());
            }
            let length = |offset: usize| match separators >> offset {
                0 => subject.len() - offset,
                ahead => ahead.trailing_zeros() as usize,
            };
            return self.walk_tokens(subject, length, found);
        }
        if has_empty_token(subject) {
            return ControlFlow::Continue(());
        }
        let length = |offset: usize| {
            let rest = &subject[offset..];
            rest.iter().position(|byte| *byte == b'.').unwrap_or(rest.len())
        };
        self.walk_tokens(subject, length, found)
    }

    /// `length` tells how long the token is that begins at a place.
    #[inline(always)]
    fn walk_tokens(
        &self,
        subject: &[u8],
        length: impl Fn(usize) -> usize,
        mut found: impl FnMut(FilterId) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut pending = Pending::new();
        let mut at = Some((ROOT, 0u32));
        while let Some((index, offset)) = at.take().or_else(|| pending.pop()) {
            let node = &self.nodes[index as usize];
            if offset as usize > subject.len() {
                // Past the last token.
                if node.filter != NIL {
                    found(FilterId(node.filter))?;
                }
                continue;
            }
            if node.tail != NIL {
                found(FilterId(node.tail))?;
            }
            let length = length(offset as usize);
            let after = offset + length as u32 + 1;
            if node.star != NIL {
                at = Some((node.star, after));
            }
            if node.edges > 0
                && let Some(child) = self.edge(index, &subject[offset as usize..offset as usize + length])
                && let Some(other) = at.replace((child, after))
            {
                pending.push(other);
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether most of the memory is unused: then put [`Trie::rebuilt`] in the place of this index. It follows
    /// removals in proportion to its work, so removal stays cheap on average.
    pub fn is_sparse(&self) -> bool {
        let texts = self.arena.len_bytes() > REBUILD_BYTES_MIN
            && self.arena.used_bytes() * 3 < self.arena.len_bytes();
        // Ids are the caller's and cannot move: entries can be cut only where the upper ones are all free.
        let entries = self.entries.len() > REBUILD_ENTRIES_MIN
            && self.upper_used == 0
            && self.live * 4 < self.entries.len();
        let nodes = self.nodes.len() > REBUILD_ENTRIES_MIN && self.live_nodes * 4 < self.nodes.len();
        texts || nodes || entries
    }

    /// The first id of the upper half: the greatest power of two below the number of entries.
    fn upper_start(&self) -> usize {
        self.entries.len().next_power_of_two() / 2
    }

    /// The same filters under the same ids, in tables of the right size. Takes some 0.3 microseconds a filter, in
    /// which others may go on matching in this one.
    pub fn rebuilt(&self) -> Trie {
        let mut fresh = Trie::new(self.seed);
        let end = self.iter().last().map_or(0, |id| id.index() + 1);
        fresh.entries = Vec::with_capacity(end);
        fresh.entries.resize(end, Entry::new(Place::Free(NIL)));
        fresh.literals = HashTable::with_capacity(self.literals.len());
        let mut text = Vec::new();
        for id in self.iter() {
            text.clear();
            self.text(id, &mut text);
            fresh.place(id.0, &text);
        }
        for id in (0..end as u32).rev() {
            if matches!(fresh.entries[id as usize].place(), Place::Free(_)) {
                fresh.entries[id as usize] = Entry::new(Place::Free(fresh.free_entries));
                fresh.free_entries = id;
            }
        }
        fresh.live = self.live;
        fresh.upper_used = fresh.iter().filter(|id| id.index() >= fresh.upper_start()).count();
        fresh
    }
}

/// Whether a filter lives in the flat table: all literals, and invalid texts, which no walk reaches.
fn is_flat(filter: &[u8]) -> bool {
    is_literal(filter) || !is_valid(filter)
}

#[inline]
fn literal_text<'a>(arena: &'a Arena, entries: &[Entry], id: u32) -> &'a [u8] {
    match entries[id as usize].place() {
        Place::Literal(reference) => arena.text(reference),
        Place::Node(_) | Place::Tail(_) | Place::Free(_) => &[],
    }
}

#[inline]
fn edge_hash(seed: u64, parent: u32, token: &[u8]) -> u64 {
    fold(hash(seed, token) ^ 0x9E37_79B9_7F4A_7C15, u64::from(parent) ^ 0xD6E8_FEB8_6659_FD93)
}

/// Longest subject whose separators fit into one word, with a bit to spare for the end.
const SEPARATORS_BYTES_MAX: usize = 63;

/// Where the separators of a subject of up to [`SEPARATORS_BYTES_MAX`] bytes are, a bit for each byte. Eight bytes at a
/// time: to find tokens byte by byte took most of a match.
#[inline]
fn separators(subject: &[u8]) -> u64 {
    let mut found = 0;
    let (words, rest) = subject.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        found |= separators_of(*word) << (8 * place);
    }
    match subject.last_chunk::<8>() {
        // looks at some bytes twice
        Some(word) => found | separators_of(*word) << (subject.len() - 8),
        None => rest.iter().rev().fold(found, |found, byte| found << 1 | u64::from(*byte == b'.')),
    }
}

/// One bit a byte. Exact: no borrow runs from one byte into the next.
#[inline(always)]
fn separators_of(word: [u8; 8]) -> u64 {
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let difference = u64::from_le_bytes(word) ^ 0x2e2e_2e2e_2e2e_2e2e;
    let equal = !(((difference & LOW_BITS) + LOW_BITS) | difference | LOW_BITS);
    (equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[inline(always)]
fn has_empty_token_at(length: usize, separators: u64) -> bool {
    // a separator at the front, behind another, or at the end
    length == 0 || separators & (separators << 1 | 1 | 1 << (length - 1)) != 0
}

/// Branches that a walk keeps on the stack.
const NEAR: usize = 8;

/// Branches of a walk not taken yet: on the stack as far as any sane filter goes, on the heap beyond.
struct Pending {
    near: [(u32, u32); NEAR],
    near_len: usize,
    far: Vec<(u32, u32)>,
}

impl Pending {
    #[inline]
    fn new() -> Pending {
        Pending { near: [(0, 0); NEAR], near_len: 0, far: Vec::new() }
    }

    #[inline]
    fn push(&mut self, branch: (u32, u32)) {
        match self.near.get_mut(self.near_len) {
            Some(slot) => {
                *slot = branch;
                self.near_len += 1;
            }
            None => self.far.push(branch),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<(u32, u32)> {
        if let Some(branch) = self.far.pop() {
            return Some(branch);
        }
        self.near_len = self.near_len.checked_sub(1)?;
        Some(self.near[self.near_len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_found_wherever_they_stand() {
        let mut random = 1u64;
        for round in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..round % (SEPARATORS_BYTES_MAX + 1) {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // neighbours of the separator, high bits, zeros
                text.push([b'.', b'/', b'-', b'a', 0xae, 0, 0xff, 0x2f][(random >> 60) as usize & 7]);
            }
            let wanted =
                text.iter().enumerate().fold(0, |bits, (i, byte)| bits | u64::from(*byte == b'.') << i);
            assert_eq!(separators(&text), wanted, "{text:?}");
            assert_eq!(has_empty_token_at(text.len(), wanted), has_empty_token(&text), "{text:?}");
        }
    }

    use alloc::{format, string::String, vec};

    fn texts(trie: &Trie, ids: &[FilterId]) -> Vec<String> {
        let mut texts: Vec<String> = ids
            .iter()
            .map(|id| {
                let mut text = vec![];
                trie.text(*id, &mut text);
                String::from_utf8(text).unwrap()
            })
            .collect();
        texts.sort();
        texts
    }

    fn matched(trie: &Trie, subject: &str) -> Vec<String> {
        let mut out = vec![];
        trie.matches(subject.as_bytes(), trie.hash(subject.as_bytes()), &mut out);
        assert_eq!(trie.has_match(subject.as_bytes()), !out.is_empty());
        texts(trie, &out)
    }

    #[test]
    fn a_subject_finds_its_literal_and_all_wildcards() {
        let mut trie = Trie::new(1);
        for filter in ["foo.bar", "foo.*", "*.bar", "foo.>", ">", "*.*", "foo.baz", "*.*.x", "foo", "*"] {
            assert!(trie.insert(filter.as_bytes()).1);
            assert!(!trie.insert(filter.as_bytes()).1);
        }
        assert_eq!(matched(&trie, "foo.bar"), ["*.*", "*.bar", ">", "foo.*", "foo.>", "foo.bar"]);
        assert_eq!(matched(&trie, "foo"), ["*", ">", "foo"]);
        assert_eq!(matched(&trie, "a.b.x"), ["*.*.x", ">"]);
        assert_eq!(matched(&trie, "foo..bar"), [""; 0]);
        assert_eq!(matched(&trie, "foo."), [""; 0]);
        assert_eq!(matched(&trie, ""), [""; 0]);
        // Publishing to a wildcard text reaches what matches it token by token.
        assert_eq!(matched(&trie, "foo.*"), ["*.*", ">", "foo.*", "foo.>"]);
    }

    #[test]
    fn a_filter_finds_those_it_shares_subjects_with() {
        let mut trie = Trie::new(1);
        for filter in ["foo.bar", "foo.*", "*.bar", "baz.>", "x"] {
            trie.insert(filter.as_bytes());
        }
        let mut out = vec![];
        trie.matches_filter(b"foo.>", &mut out);
        assert_eq!(texts(&trie, &out), ["*.bar", "foo.*", "foo.bar"]);
        out.clear();
        trie.matches_filter(b"baz.bar", &mut out);
        assert_eq!(texts(&trie, &out), ["*.bar", "baz.>"]);
    }

    #[test]
    fn invalid_filters_are_harmless() {
        let mut trie = Trie::new(1);
        for filter in ["", ".", "a..b", "a.>.b", "*..", ">.*"] {
            let (id, new) = trie.insert(filter.as_bytes());
            assert!(new);
            assert_eq!(trie.find(filter.as_bytes()), Some(id));
            assert_eq!(texts(&trie, &[id]), [filter]);
        }
        assert_eq!(matched(&trie, "a.b"), [""; 0]);
        for id in trie.iter().collect::<Vec<_>>() {
            trie.remove(id);
        }
        assert!(trie.is_empty());
    }

    #[test]
    fn subjects_of_thousands_of_tokens_need_no_deep_stack() {
        let mut trie = Trie::new(1);
        let deep = |token: &str| vec![token; 20_000].join(".");
        trie.insert(deep("*").as_bytes());
        trie.insert(format!("{}.*", deep("a")).as_bytes());
        // A `*` and an `a` at every depth: each level leaves a branch pending.
        for depth in 1..200 {
            trie.insert(format!("{}.*.x", vec!["a"; depth].join(".")).as_bytes());
        }
        assert_eq!(matched(&trie, &deep("a")).len(), 1);
        assert_eq!(matched(&trie, &format!("{}.a", deep("a"))).len(), 1);
        assert_eq!(matched(&trie, "a.a.a.x"), ["a.a.*.x"]);
    }

    #[test]
    fn memory_returns_when_filters_go() {
        let mut trie = Trie::new(9);
        let ids: Vec<FilterId> = (0..40_000)
            .map(|i| {
                let filter =
                    if i % 4 == 0 { format!("orders.{i}.*.created") } else { format!("orders.{i}.created") };
                trie.insert(filter.as_bytes()).0
            })
            .collect();
        let full = trie.memory();
        assert_eq!((full.literals, full.wildcards), (30_000, 10_000));
        let remove = |trie: &mut Trie, ids: &[FilterId]| {
            for id in ids {
                trie.remove(*id);
                if trie.is_sparse() {
                    *trie = trie.rebuilt();
                }
            }
        };
        remove(&mut trie, &ids[100..]);
        let small = trie.memory();
        assert_eq!((small.literals, small.wildcards), (75, 25));
        assert!(small.total_bytes * 10 < full.total_bytes, "{full:?} {small:?}");
        assert!(trie.ids_end() < 20_000);
        assert_eq!(matched(&trie, "orders.4.x.created"), ["orders.4.*.created"]);
        assert_eq!(matched(&trie, "orders.5.created"), ["orders.5.created"]);
        remove(&mut trie, &ids[..100]);
        assert_eq!(trie.memory().nodes, 0);
        assert!(trie.is_empty());
    }

    #[test]
    fn a_literal_filter_costs_little_more_than_its_text() {
        let mut trie = Trie::new(9);
        let mut text_bytes = 0;
        for i in 0..100_000 {
            let filter = format!("orders.{i}.created");
            text_bytes += filter.len();
            trie.insert(filter.as_bytes());
        }
        // Length byte, padding and id; hash table and the growth of vectors are what the rest is.
        assert!(trie.memory().text_bytes - text_bytes < 4 * 100_000);
        assert!(trie.memory().total_bytes < text_bytes * 2 + 24 * 100_000, "{:?}", trie.memory());
    }
}
