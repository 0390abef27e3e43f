//! What honest code needs goes on working in there: a table of things that Python does, each said to have worked or why not.

use serde_json::json;

use crate::world::{level, python, run};

/// Each raises when it does not work.
const NEEDS: &str = r#"
import asyncio, concurrent.futures, ctypes, fcntl, hashlib, io, mmap, multiprocessing, multiprocessing.shared_memory, resource, select, shutil, signal, socket
import socketserver, sqlite3, ssl, subprocess, tarfile, tempfile, threading, zipfile
from multiprocessing import Pool, Queue, get_context

def square(n):
    return n * n

def threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(square, range(100))) == 328350

def forks():
    with get_context('fork').Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

def shared():
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = 7
    block.close(); block.unlink()
    multiprocessing.Value('i', 3); multiprocessing.Lock(); multiprocessing.Event()

def maps():
    m = mmap.mmap(-1, 8192); m.write(b'x'); m.close()
    with tempfile.TemporaryFile() as f:
        f.truncate(8192); mmap.mmap(f.fileno(), 8192)[0:1]

def subprocesses():
    assert subprocess.run(['/bin/sh', '-c', 'echo a | cat; ls / >/dev/null'], capture_output=True, text=True, check=True).stdout == 'a\n'
    assert subprocess.run([sys.executable, '-I', '-c', 'print(2)'], capture_output=True, text=True, start_new_session=True).stdout == '2\n'
    assert subprocess.Popen(['/bin/false'], stdin=subprocess.DEVNULL, close_fds=True).wait() == 1

async def many():
    async def answer(reader, writer):
        writer.write(await reader.readline()); await writer.drain(); writer.close()
    server = await asyncio.start_server(answer, '127.0.0.1', 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b'hello\n'); assert await reader.readline() == b'hello\n'
    writer.close(); server.close()
    process = await asyncio.create_subprocess_exec('/bin/echo', 'x', stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b'x\n' and process.returncode == 0
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(20)))
    unix = await asyncio.start_unix_server(answer, '/tmp/u')
    reader, writer = await asyncio.open_unix_connection('/tmp/u')
    writer.write(b'u\n'); assert await reader.readline() == b'u\n'
    writer.close(); unix.close()

def databases():
    with sqlite3.connect('/tmp/a.db') as db:
        db.execute('PRAGMA journal_mode=WAL'); db.execute('create table t(a)'); db.executemany('insert into t values (?)', [(n,) for n in range(100)])
        assert db.execute('select sum(a) from t').fetchone() == (4950,)

def secure():
    context = ssl.create_default_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname='example.org')
    try: side.do_handshake()
    except ssl.SSLWantReadError: pass
    assert outgoing.pending > 100 and os.urandom(4) and hashlib.sha256(b'x').digest()

def names():
    assert socket.gethostbyname('localhost') == '127.0.0.1'
    assert socket.getaddrinfo('127.0.0.1', 80, type=socket.SOCK_STREAM)[0][4] == ('127.0.0.1', 80)

def files():
    with tempfile.TemporaryDirectory() as d:
        p = os.path.join(d, 'a')
        open(p, 'w').write('x'); os.link(p, p + 'l'); os.symlink(p, p + 's'); os.rename(p, p + 'r'); os.chmod(p + 'r', 0o600); os.utime(p + 'r')
        os.mkfifo(p + 'f'); os.truncate(p + 'r', 10); os.makedirs(p + 'd/e'); shutil.copytree(p + 'd', p + 'c'); shutil.copy2(p + 'r', p + 'k')
        os.rename(p + 'k', p + 'd/e/k')
        fd = os.open(p + 'r', os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); fcntl.lockf(fd, fcntl.LOCK_EX); os.fsync(fd); os.posix_fallocate(fd, 0, 100); os.close(fd)
        with zipfile.ZipFile(p + 'z', 'w') as z: z.write(p + 'r')
        with tarfile.open(p + 't', 'w:gz') as t: t.add(p + 'd')
        with tarfile.open(p + 't') as t: t.extractall(p + 'x')

def waiting():
    r, w = os.pipe()
    for poller in (select.epoll(), select.poll()):
        poller.register(r, select.POLLIN); assert poller.poll(0) == []
    os.eventfd(1) if hasattr(os, 'eventfd') else None
    signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.001); signal.sigtimedwait({signal.SIGUSR1}, 0.01)
    os.pidfd_open(os.getpid())
    threading.Timer(0.001, lambda: None).start()

def itself():
    resource.getrusage(resource.RUSAGE_SELF); resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_getaffinity(0); os.nice(1); os.getloadavg if not os.path.exists('/proc/loadavg') else os.getloadavg()
    ctypes.CDLL(None).prctl(15, b'name', 0, 0, 0); os.cpu_count(); os.uname(); os.times()
    a, b = socket.socketpair(); a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    socket.send_fds(a, [b'x'], [0]); assert len(socket.recv_fds(b, 1, 1)[1]) == 1

told = {}
for need in (threads, forks, shared, maps, subprocesses, lambda: asyncio.run(many()), databases, secure, names, files, waiting, itself):
    try: need(); told[need.__name__] = 'works'
    except BaseException as e: told[need.__name__] = repr(e)
say(told)
"#;

#[tokio::test]
async fn everything_that_python_does() {
    let level = level("working").await;
    let mut spec = python(NEEDS);
    spec.memory_mb = 512;
    let (told, exit) = run(&spec, &level).await;
    let told = told.as_object().expect("an object");
    assert_eq!(told.len(), 12);
    assert!(
        told.values().all(|how| how == &json!("works")),
        "{told:#?} under {level}"
    );
    assert_eq!(exit.code, Some(0));
}
