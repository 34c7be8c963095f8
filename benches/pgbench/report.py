"""How figures are shown: a table in Markdown, and a picture of the ratios."""

import html
import os
import pathlib
import platform
import subprocess

# the ratios to PgBouncer that are drawn, with their colours
DRAWN = {"cpu_us": ("CPU per transaction", "#2f6db5"), "throughput": ("throughput", "#d98a29")}


def machine(binaries, root):
    """What the figures were measured with."""
    processor = next(
        (line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )

    def version(*command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout or "?").splitlines()[0]

    return ", ".join(
        [
            f"{os.cpu_count()} cores of {processor}",
            f"Linux {platform.release()}",
            version(binaries / "postgres", "--version"),
            version(root / "target/bench/pgbouncer", "--version"),
        ]
    )


# an endpoint, and the one that it is held against where it runs: shards against one, a server's Unix socket against TCP, and else PgBouncer
AGAINST = {"pgherd, sharded": "pgherd", "pgherd, Unix socket": "pgherd", "pgherd": "pgbouncer", "pgherd, 1 worker": "pgbouncer"}


def ratio(of, endpoint, figure):
    against = of.get(AGAINST.get(endpoint))
    ours, theirs = of[endpoint].get(figure), against and against.get(figure)
    return ours / theirs if ours and theirs else None


def number(value, digits=1):
    return "" if value is None else f"{value:,.{digits}f}"


def table(results, machine):
    lines = [
        f"{machine}. Medians; ratios of pgherd to PgBouncer, of three shards to one, and of a server's Unix socket to TCP.",
        "",
        "| workload | through | transactions/s | average ms | p99 ms | CPU us per transaction | throughput ratio | CPU ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of in results.items():
        for endpoint, figures in of.items():
            lines.append(
                f"| {name} | {endpoint} | {number(figures['throughput'], 0)} | {number(figures['latency_ms'], 3)} | {number(figures.get('p99_ms'), 3)} | "
                + (number(figures["cpu_us"]) if endpoint != "postgres" else "")
                + f" | {number(ratio(of, endpoint, 'throughput'), 2)} | {number(ratio(of, endpoint, 'cpu_us'), 2)} |"
            )
    return "\n".join(lines)


def picture(results, machine):
    """A bar for each ratio; the line is what it is held against."""
    rows = [
        (f"{name}, {endpoint}", figure, value)
        for name, of in results.items()
        for endpoint in of
        for figure in DRAWN
        if (value := ratio(of, endpoint, figure))
    ]
    left, unit, height = 290, 260, 14
    bottom = 40 + len(rows) * height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 2.4 * unit:.0f}" height="{bottom + 30}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, (label, colour) in enumerate(DRAWN.values()):
        parts.append(f'<text x="{left + 170 * place}" y="20" fill="{colour}">{label}, ratio</text>')
    for place, (name, figure, value) in enumerate(rows):
        top = 30 + place * height
        if place % len(DRAWN) == 0:
            parts.append(f'<text x="{left - 6}" y="{top + 11}" text-anchor="end">{html.escape(name)}</text>')
        width = min(value, 2.2) * unit
        parts.append(f'<rect x="{left}" y="{top + 1}" width="{width:.1f}" height="{height - 3}" fill="{DRAWN[figure][1]}"/>')
        parts.append(f'<text x="{left + width + 4:.1f}" y="{top + 11}">{value:.2f}</text>')
    parts.append(f'<line x1="{left + unit}" y1="26" x2="{left + unit}" y2="{bottom}" stroke="black" stroke-dasharray="3 2"/>')
    parts.append(f'<text x="{left}" y="{bottom + 18}" fill="#666">{html.escape(machine)}</text>')
    return "\n".join([*parts, "</svg>"])
