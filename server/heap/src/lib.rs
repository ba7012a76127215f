//! The C library's heap, as far as it must be told something.
//!
//! Owns the only unsafe code of the workspace: one call. Never decides when: that is `node`'s.

/// Gives memory that was freed back to the system: the C library keeps what was freed in small pieces for the next
/// burst, and after one that may be most of a process. `true` if anything was given back.
///
/// Any thread may call it. Each of the heap's arenas is locked while it is gone through, so who allocates from it
/// waits: about a millisecond for each 10 MB that are given back. Does nothing with another C library than
/// glibc.
pub fn trim() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[allow(unsafe_code)]
        // SAFETY: `malloc_trim` may be called at any time from any thread (malloc_trim(3): MT-Safe); it takes a number
        // and gives back only pages in which nothing is allocated.
        let given_back = unsafe { libc::malloc_trim(0) };
        given_back != 0
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_was_freed_in_small_pieces_goes_back_to_the_system() {
        fn held_pages() -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let fields: Vec<usize> = statm.split_whitespace().map(|field| field.parse().unwrap()).collect();
            fields[1] - fields[2]
        }
        let mut pieces: Vec<Box<[u8; 256]>> = (0..200_000).map(|n| Box::new([n as u8; 256])).collect();
        let stays = pieces.pop();
        let full = held_pages();
        drop(pieces);
        assert!(trim());
        // 50 MB, of which one piece stays at the far end
        assert!(held_pages() + 9_000 < full, "{full} pages before, {} after", held_pages());
        drop(stays);
    }
}
