//! What a worker may use: what it was given.

use executor::confine::{Config, Level, probe, spawn};
use serde_json::json;

use crate::world::{Scratch, config, ended, groups, level, python, run, said};

/// The same bounds with and without control groups.
async fn levels(node: &str) -> [Level; 2] {
    [
        level(node).await,
        probe(Config {
            cgroups: false,
            ..config(node)
        })
        .await,
    ]
}

#[tokio::test]
async fn writing() {
    let level = level("writing").await;
    // Everyone may write there, were it not shown read-only.
    let scratch = Scratch::new("writing");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&scratch.0, mode).unwrap();
    let mut spec = python(
        "import errno, subprocess\n\
         def write(path):\n\
         \x20   try: open(path, 'w').close(); return 'written'\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         def fill(path):\n\
         \x20   n = 0\n\
         \x20   try:\n\
         \x20       with open(path, 'wb', 0) as f:\n\
         \x20           while n < 64: n += f.write(bytes(1 << 20)) / (1 << 20)\n\
         \x20   except OSError as e: return [round(n), errno.errorcode[e.errno]]\n\
         \x20   return [round(n), 'no end']\n\
         dirs = ['/', '/usr', '/usr/lib', '/etc', '/dev', '/agent/code', '/var/empty'] + (['/proc', '/proc/sys'] if os.listdir('/proc') else [])\n\
         say({'refused': {d: write(d + '/x') for d in dirs}, 'passwd': write('/etc/passwd'), 'tmp': fill('/tmp/x'), 'shm': fill('/dev/shm/x'),\
         'mount': subprocess.run(['/bin/mount', '-o', 'remount,rw', '/usr'], capture_output=True).returncode})",
    )
    .show(&scratch.0, "/agent/code");
    (spec.tmp_mb, spec.shm_mb, spec.memory_mb) = (8, 4, 256);
    let (seen, _) = run(&spec, &level).await;

    for (dir, answer) in seen["refused"].as_object().unwrap() {
        assert!(
            ["EROFS", "EACCES", "ENOENT"]
                .map(|e| json!(e))
                .contains(answer),
            "{dir}: {answer}"
        );
    }
    assert_eq!(seen["refused"]["/agent/code"], json!("EROFS"));
    assert_eq!(
        (&seen["passwd"], &seen["tmp"], &seen["shm"]),
        (
            &json!("EROFS"),
            &json!([8, "ENOSPC"]),
            &json!([4, "ENOSPC"])
        )
    );
    assert_ne!(seen["mount"], json!(0));
}

#[tokio::test]
async fn memory() {
    for level in levels("memory").await {
        let mut spec = python(
            "kept = []\ntry:\n    while True: kept.append(bytearray(b'x' * (4 << 20)))\nexcept MemoryError: kept = None; say('MemoryError')",
        );
        spec.memory_mb = 64;
        let mut worker = spawn(&spec, &level).await.unwrap();
        if level.memory == "cgroup" {
            let exit = ended(&worker).await;
            assert_eq!((exit.signal, exit.oom_killed), (Some(9), true), "{level}");
            assert!(
                (60 << 20..=64 << 20).contains(&worker.memory().peak),
                "{:?}",
                worker.memory()
            );
        } else {
            assert_eq!(said(&mut worker).await, json!("MemoryError"), "{level}");
            assert_eq!(ended(&worker).await.code, Some(0));
        }
        worker.kill().await.unwrap();
    }
}

/// Memory that is in a map and private to nobody, and memory that is in no map at all.
#[tokio::test]
async fn memory_that_is_shared() {
    for level in levels("memory-shared").await {
        let mut spec = python(
            "import errno\ntry: say(len(str(os.memfd_create('m'))) and 'made')\nexcept OSError as e: say(errno.errorcode[e.errno])\n\
             import mmap\nkept = []\nfor _ in range(50):\n    kept.append(mmap.mmap(-1, 4 << 20)); kept[-1].write(b'x' * (4 << 20)); time.sleep(0.02)\ntime.sleep(60)",
        );
        spec.memory_mb = 64;
        let mut worker = spawn(&spec, &level).await.unwrap();
        let counted = level.memory == "cgroup";
        let made = if counted { "made" } else { "EPERM" };
        assert_eq!(said(&mut worker).await, json!(made), "{level}");
        let exit = ended(&worker).await;
        assert!(exit.oom_killed, "{exit:?} under {level}");
        worker.kill().await.unwrap();
    }
}

/// Many small processes: no single one is over the limit of its own, but their sum is.
#[tokio::test]
async fn memory_of_many() {
    for level in levels("memory-of-many").await {
        let mut spec = python(
            "for _ in range(4):\n    if os.fork() == 0: break\nkept = bytearray(b'x' * (40 << 20)); time.sleep(60)",
        );
        spec.memory_mb = 100;
        let worker = spawn(&spec, &level).await.unwrap();
        if level.memory == "cgroup" {
            // The kernel takes one of them; whether the worker, is its choice.
            let deadline = std::time::Instant::now() + crate::world::WITHIN;
            while worker.processes() == 6 || worker.processes() < 2 {
                assert!(
                    std::time::Instant::now() < deadline,
                    "{} processes",
                    worker.processes()
                );
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                if worker.processes() < 6 && worker.memory().peak > 90 << 20 {
                    break;
                }
            }
        } else {
            assert!(ended(&worker).await.oom_killed, "{level}");
        }
        worker.kill().await.unwrap();
    }
}

#[tokio::test]
async fn forks() {
    for level in levels("forks").await {
        let mut spec = python(
            "n = 0\ntry:\n    while n < 200:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\nexcept BlockingIOError: pass\nsay(n)\ntime.sleep(60)",
        );
        spec.processes = 20;
        let mut worker = spawn(&spec, &level).await.unwrap();
        let forks = said(&mut worker).await.as_u64().unwrap();
        assert!((10..20).contains(&forks), "{forks} forks under {level}");
        assert_eq!(
            worker.processes() as u64,
            forks + 2,
            "with process 1 and the worker"
        );
        worker.kill().await.unwrap();
        assert_eq!(worker.processes(), 0);
    }
}

#[tokio::test]
async fn accounts() {
    for level in levels("accounts").await {
        let mut worker = spawn(&python("kept = bytearray(b'x' * (30 << 20))\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nsay(0)\ntime.sleep(60)"), &level).await.unwrap();
        said(&mut worker).await;
        let (memory, cpu_us) = (worker.memory(), worker.cpu_us());
        assert!(
            (30 << 20..100 << 20).contains(&memory.current) && memory.peak >= memory.current,
            "{memory:?} under {level}"
        );
        assert!(
            (280_000..5_000_000).contains(&cpu_us),
            "{cpu_us} µs under {level}"
        );
        if level.controllers.iter().any(|c| c == "cpu") {
            worker.limit_cpu(0.5).unwrap();
        }
        worker.kill().await.unwrap();
        assert_eq!(
            groups(&config("accounts").node),
            Vec::<std::path::PathBuf>::new()
        );
    }
}
