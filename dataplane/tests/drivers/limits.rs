//! What kernels, links and queues do not do, and how the drivers take it.

use super::*;

#[test]
fn offloads_are_switched_off_while_the_interface_is_ours() {
    on_a_pair(|| {
        let state = |feature: &str| {
            ethtool(&["-k", "culvert-b"])
                .lines()
                .find_map(|line| line.strip_prefix(feature)?.strip_prefix(": "))
                .unwrap()
                .to_owned()
        };
        let (gro, tags) = ("generic-receive-offload", "rx-vlan-offload");
        for kind in [Kind::AfPacket, Kind::AfXdp] {
            ethtool(&["-K", "culvert-b", "gro", "on", "rxvlan", "on"]);
            let driver = Driver::open(kind);
            // AF_PACKET is told of tags that were taken out.
            let left_in = if kind == Kind::AfXdp { "off" } else { "on" };
            assert_eq!(
                (state(gro).as_str(), state(tags).as_str()),
                ("off", left_in)
            );
            driver.finish();
            assert_eq!((state(gro).as_str(), state(tags).as_str()), ("on", "on"));
            ethtool(&["-K", "culvert-b", "gro", "off", "rxvlan", "off"]);
            Driver::open(kind).finish();
            assert_eq!(
                (state(gro).as_str(), state(tags).as_str()),
                ("off", "off"),
                "what was off before stays off"
            );
        }
    });
}

/// Lets system calls of this thread fail with an error: that of a number whose argument of a number has one value.
fn refuse(call: libc::c_long, argument: u32, value: u32, error: i32) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(load, 0, 0, 0),
        step(equal, call as u32, 0, 3),
        // The low half of an argument, on machines whose bytes are little-endian.
        step(load, 16 + 8 * argument, 0, 0),
        step(equal, value, 0, 1),
        step(answer, libc::SECCOMP_RET_ERRNO | error as u32, 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter live through the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        let set = libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
        assert_eq!(set, 0);
    }
}

#[test]
fn a_frame_that_does_not_find_room_in_the_transmit_ring_leaves_no_part_in_it() {
    on_a_pair(|| {
        let (kernel, mut driver) = open_jumbo(Kind::AfXdp);
        let mut random = Random::new(13);
        let large: Vec<_> = (0..500)
            .map(|number| frame(&mut random, 8705 + number, EXPERIMENT))
            .collect();
        let small: Vec<_> = (0..10)
            .map(|number| frame(&mut random, 60 + number, EXPERIMENT))
            .collect();
        // The kernel's answer while it cannot send.
        let stuck = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                refuse(libc::SYS_sendto, 3, libc::MSG_DONTWAIT as u32, libc::EAGAIN);
                driver.transmit(&large);
                driver.transmit(&small);
                driver.drops(DropReason::TxQueueFull)
            });
            thread.join().unwrap()
        });
        // Five pieces each: 409 of them, and then there is room for three.
        assert_eq!(stuck, (500 - 409) + (10 - 3));
        driver.receive_nothing();
        let mut bytes = vec![0; 16_384];
        for expected in large[..409].iter().chain(&small[..3]) {
            expect_from(&kernel, expected, &mut bytes);
        }
        driver.transmit(&large[..100]);
        for expected in &large[..100] {
            expect_from(&kernel, expected, &mut bytes);
        }
        assert_eq!(driver.drops(DropReason::TxError), 0);
        driver.finish();
    });
}

/// As kernels answer that lack it: before 5.18 when the program is loaded, before 6.6 when the socket is bound.
#[test]
fn a_kernel_without_multi_buffer_xdp_is_refused_by_name() {
    const PROGRAM_LOAD: u32 = 5;
    let socket_address = size_of::<libc::sockaddr_xdp>() as u32;
    for (call, argument, value, step) in [
        (libc::SYS_bpf, 0, PROGRAM_LOAD, "load the XDP program"),
        (libc::SYS_bind, 2, socket_address, "bind to a queue"),
    ] {
        on_a_pair(move || {
            ip("link set culvert-b mtu 9000");
            ip("link set culvert-a mtu 9000");
            refuse(call, argument, value, libc::EINVAL);
            let buffers = BufferPool::new(64).unwrap();
            let refused = AfXdp::open("culvert-b", &[buffers.memory()]).err().unwrap();
            assert_eq!(
                refused.to_string(),
                format!(
                    "culvert-b: an MTU of 9000 bytes needs multi-buffer XDP, which this kernel or driver does not have: {step}: Invalid argument (os error 22)"
                )
            );
            // What is then used has not been spoilt.
            let (kernel, mut driver) = (raw(), Driver::open_for(Kind::AfPacket, 9000));
            let sent = frame(&mut Random::new(14), 9000, EXPERIMENT);
            put(&kernel, &sent);
            assert!(driver.receive_all(1)[0].1 == sent);
            driver.finish();
        });
    }
}

#[test]
fn an_mtu_that_does_not_fit_a_buffer_is_refused_by_name() {
    on_a_pair(|| {
        let buffers = BufferPool::new(64).unwrap();
        ip("link set culvert-b mtu 9217");
        let refused = AfXdp::open("culvert-b", &[buffers.memory()]).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "culvert-b: AF_XDP takes an MTU of 9216 bytes at most, not 9217"
        );
        // On both sides of where frames begin to need several buffers.
        for mtu in [1836, 1837] {
            ip(&format!("link set culvert-b mtu {mtu}"));
            ip(&format!("link set culvert-a mtu {mtu}"));
            let (kernel, mut driver) = (raw(), Driver::open(Kind::AfXdp));
            let mut random = Random::new(6);
            let largest = frame(&mut random, mtu + 14, EXPERIMENT);
            put(&kernel, &largest);
            assert!(driver.receive_all(1)[0].1 == largest);
            driver.transmit(std::slice::from_ref(&largest));
            expect_from(&kernel, &largest, &mut [0; 4096]);
            driver.finish();
        }
        let missing = AfXdp::open("culvert-c", &[buffers.memory()]).err().unwrap();
        assert!(matches!(missing, XdpError::Device(_)), "{missing}");
    });
}

#[test]
fn what_a_link_that_is_down_does_not_send_is_counted_and_never_sent() {
    cut_a_link(|| (raw(), Driver::open(Kind::AfXdp)), |_| 400);
}

#[test]
fn jumbo_frames_that_a_link_does_not_send_are_counted_once_each() {
    let sizes = |number| [9000, 400, 2177, 9230][number % 4];
    cut_a_link(|| open_jumbo(Kind::AfXdp), sizes);
}

fn cut_a_link(open: fn() -> (OwnedFd, Driver), size: fn(usize) -> usize) {
    on_a_pair(move || {
        let (kernel, mut driver) = open();
        let mut random = Random::new(7);
        let stale: Vec<_> = (0..20)
            .map(|number| frame(&mut random, size(number), EXPERIMENT))
            .collect();
        ip("link set culvert-b down");
        driver.transmit(&stale);
        assert_eq!(driver.drops(DropReason::TxError), 20);
        ip("link set culvert-b up");
        let fresh = frame(&mut random, size(0) + 100, EXPERIMENT);
        driver.transmit(std::slice::from_ref(&fresh));
        expect_from(&kernel, &fresh, &mut [0; 16_384]);
        // The other end takes a while to see that there is a link again.
        let began = Instant::now();
        while !driver.wait(Duration::from_millis(100)) && began.elapsed() < PATIENCE {
            put(&kernel, &fresh);
        }
        let received = driver.receive();
        assert!(!received.is_empty() && received.iter().all(|(_, frame)| *frame == fresh));
        // The kernel counts what it skipped; we have.
        while driver.wait(Duration::from_millis(10)) {
            driver.receive();
        }
        driver.receive_nothing();
        assert_eq!(driver.drops(DropReason::TxError), 20);
        driver.finish();
    });
}

#[test]
fn a_queue_can_be_opened_again_at_once_also_after_a_kill() {
    const HOLDER: &str = "CULVERT_TEST_HOLDER";
    if std::env::var_os(HOLDER).is_some() {
        let driver = Driver::open(Kind::AfXdp);
        println!("ready");
        // Until it is killed, by whoever started it.
        std::thread::sleep(PATIENCE);
        return driver.finish();
    }
    on_a_pair(|| {
        let kernel = raw();
        let mut random = Random::new(8);
        for round in 0..4 {
            if round % 2 == 1 {
                let mut holder = Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "limits::a_queue_can_be_opened_again_at_once_also_after_a_kill",
                    ])
                    .arg("--nocapture")
                    .env(HOLDER, "1")
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                let lines = std::io::BufReader::new(holder.stdout.take().unwrap());
                let ready = std::io::BufRead::lines(lines)
                    .map_while(Result::ok)
                    .any(|line| line.ends_with("ready"));
                assert!(ready);
                holder.kill().unwrap();
                holder.wait().unwrap();
            }
            let mut driver = Driver::open(Kind::AfXdp);
            let sent = frame(&mut random, 100, EXPERIMENT);
            put(&kernel, &sent);
            assert!(driver.receive_all(1)[0].1 == sent);
            driver.transmit(std::slice::from_ref(&sent));
            let mut bytes = vec![0; 4096];
            let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            assert!(bytes[..length] == sent);
            driver.finish();
        }
    });
}

#[test]
fn every_queue_has_a_worker_and_a_worker_without_one_sends() {
    on_a_pair(|| {
        ip("link del culvert-a");
        ip(
            "link add culvert-a numtxqueues 3 numrxqueues 3 type veth peer name culvert-b numtxqueues 3 numrxqueues 3",
        );
        for end in ["culvert-a", "culvert-b"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        ip("addr add 10.99.0.1/24 dev culvert-a");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev culvert-a");
        let kernel = raw();
        for workers in [2, 4] {
            let pools: Vec<_> = (0..workers)
                .map(|_| BufferPool::new(16_384).unwrap())
                .collect();
            let memories: Vec<_> = pools.iter().map(BufferPool::memory).collect();
            let (ports, _) = AfXdp::open("culvert-b", &memories).unwrap();
            let mut drivers: Vec<_> = ports
                .into_iter()
                .zip(pools)
                .map(|(port, buffers)| {
                    let mut driver = Driver {
                        port: Box::new(port),
                        buffers,
                        counters: WorkerCounters::default(),
                    };
                    driver.receive_nothing();
                    driver
                })
                .collect();
            // So many flows that each queue gets some.
            let mut expected = 0;
            for port in 5000..5200_u16 {
                let sender = UdpSocket::bind("10.99.0.1:0").unwrap();
                sender.send_to(b"flow", ("10.99.0.2", port)).unwrap();
                expected += 1;
            }
            let mut came = vec![0; workers];
            let began = Instant::now();
            while came.iter().sum::<usize>() < expected && began.elapsed() < PATIENCE {
                for (driver, came) in drivers.iter_mut().zip(&mut came) {
                    if driver.wait(Duration::from_millis(5)) {
                        *came += driver.receive().len();
                    }
                }
            }
            assert_eq!(came.iter().sum::<usize>(), expected, "{came:?}");
            for (worker, came) in came.iter().enumerate() {
                assert_eq!(*came > 0, worker < 3, "worker {worker} got {came}");
            }
            let mut bytes = vec![0; 4096];
            let mut random = Random::new(9);
            for mut driver in drivers {
                let sent = frame(&mut random, 100, EXPERIMENT);
                driver.transmit(std::slice::from_ref(&sent));
                let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
                assert!(bytes[..length] == sent);
                driver.finish();
            }
        }
    });
}
