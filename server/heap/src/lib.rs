//! The memory of the process, as far as the C library and the system must be told something.
//!
//! Owns the only unsafe code of the workspace: three blocks. Never decides when: that is `node`'s.

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

/// Lets go of the pages of the program file and of the C library: what starting needed is not needed again, and lies all over the file, so
/// that nearly all of it counts as resident. What is used comes back from the system's cache of files, sixteen pages a
/// fault, a microsecond each.
///
/// Any thread may call it, best once, when a program has started. Does nothing where pages cannot be told apart from
/// ones that were written to (`/proc/self/smaps`), and with another C library than glibc.
pub fn let_go_of_program() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static READ_ONLY: [u8; 64] = [1; 64];
        // none of them is ever unmapped, so none can have become something else since it was looked up
        let places = [
            let_go_of_program as *const () as usize,
            READ_ONLY.as_ptr() as usize,
            libc::madvise as *const () as usize,
        ];
        let Ok(mappings) = std::fs::read_to_string("/proc/self/smaps") else { return };
        for (start, end) in untouched(&mappings, &places) {
            #[allow(unsafe_code)]
            // SAFETY: the range is a private mapping of this program's file or the C library's that nobody may write to
            // and that has no page of its own, as relocated ones would be: what is gone is read from the file again,
            // with the same bytes.
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
            }
        }
    }
}

/// The private mappings in `/proc/self/smaps` that hold one of `places`, may not be written to, and never were.
#[cfg(any(test, all(target_os = "linux", target_env = "gnu")))]
fn untouched(mappings: &str, places: &[usize]) -> Vec<(usize, usize)> {
    let (mut found, mut current) = (Vec::new(), None);
    for line in mappings.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        if first == "Anonymous:" {
            found.extend(current.take().filter(|_| second == Some("0")));
        } else if !first.ends_with(':') {
            let number = |text| usize::from_str_radix(text, 16).ok();
            current = first
                .split_once('-')
                .and_then(|(start, end)| Some((number(start)?, number(end)?)))
                .filter(|(start, end)| places.iter().any(|place| (start..end).contains(&place)))
                .filter(|_| matches!(second, Some("r--p" | "r-xp")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn a_program_goes_on_without_the_pages_that_it_let_go_of() {
        let file_pages = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split_whitespace().nth(2).unwrap().parse::<usize>().unwrap()
        };
        // brings pages in that nothing else needs
        let text = format!("{:?} {:e} {:?}", std::time::SystemTime::now(), 1.5e300, "a b".split(' '));
        let before = file_pages();
        let_go_of_program();
        let after = file_pages();
        assert!(after < before, "{before} pages before, {after} after");
        assert_eq!(text.len(), format!("{text:.1000}").len());
    }

    #[test]
    fn only_mappings_that_nobody_wrote_to_are_let_go_of() {
        let one = |rights, own_kilobytes| {
            let head =
                format!("1000-3000 {rights} 00000000 fe:00 99 /starling-server\nSize: 8 kB\nRss: 8 kB");
            let other = "3000-4000 r-xp 00000000 fe:00 99 /other\nAnonymous: 0 kB";
            let text = format!("{head}\nAnonymous: {own_kilobytes} kB\nVmFlags: rd mr\n{other}\n");
            untouched(&text, &[0x2fff, 0x9000])
        };
        assert_eq!(one("r-xp", 0), [(0x1000, 0x3000)]);
        assert_eq!(one("r--p", 0), [(0x1000, 0x3000)]);
        for (rights, own_kilobytes) in [("rw-p", 0), ("r--s", 0), ("r--p", 4), ("r-xp", 8)] {
            assert_eq!(one(rights, own_kilobytes), [], "{rights} {own_kilobytes}");
        }
        assert_eq!(untouched("1000-3000 r-xp 0 0:0 0\nnonsense\n-\n\n", &[0x1000]), []);
    }

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
