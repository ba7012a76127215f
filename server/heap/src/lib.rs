//! The C library's heap, as far as it must be told something.
//!
//! Owns the only unsafe code of the workspace: two blocks. Never decides when: that is `node`'s.

/// Bytes from which on the heap takes memory from the system for one object, and gives it back with it; and bytes that
/// each of its arenas may keep free at its end.
const KEPT_BYTES_MAX: i32 = 2 << 20;

/// Bounds what the heap keeps of what was freed. By itself glibc raises both of its bounds with what it sees, to 32 and
/// 64 MB for each thread, and [`trim`] does not reach the end of another thread's arena: a server kept 22 to 25 MB of a
/// burst of a million subscriptions so, and 8 with this. Larger than glibc's first bounds, or bodies of 64 KB would be
/// faulted in anew each time.
///
/// To be called by a program before it starts a thread. Does nothing with another C library than glibc.
pub fn bound_kept() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[allow(unsafe_code)]
        // SAFETY: `mallopt` takes two numbers and sets a parameter of the allocator; one that it does not like it leaves.
        // It must not race with itself, and its caller has no other thread yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        }
    }
}

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
