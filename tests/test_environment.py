"""What the machine tells about itself."""

from __future__ import annotations

from llama_jp.environment import cgroup_memory, system_memory


def test_the_limit_of_a_cgroup_counts(tmp_path):
    """Against: a container of 8 GB on a machine of 256 GB, in which a run is killed without a word."""
    for name, limit in (("memory.max", "8589934592"), ("memory.current", "3221225472")):
        (tmp_path / name).write_text(limit + "\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1073741824\nactive_file 0\n")
    assert cgroup_memory(tmp_path) == 6 * 2**30
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_memory(tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:  42 kB\n")
    assert system_memory(tmp_path / "meminfo") == 42 * 1024
