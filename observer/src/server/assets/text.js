// Figures as people read them: the rules of observer/src/metrics/view/text.rs.

export const NONE = "–";

// The name of a process with its pid, or of a service.
export function process({ process, pid }) {
  return pid === 0 ? process : `${process}[${pid}]`;
}

export function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

export function count(number) {
  if (number < 1e6) return grouped(number);
  return number < 1e9 ? `${(number / 1e6).toFixed(2)} M` : `${(number / 1e9).toFixed(2)} G`;
}

export function rate(perSecond) {
  if (perSecond === null) return NONE;
  if (perSecond <= 0) return "0";
  if (perSecond < 0.995) return perSecond.toFixed(2);
  return perSecond < 99.95 ? perSecond.toFixed(1) : count(Math.round(perSecond));
}

export function percent(share) {
  if (share === null) return NONE;
  if (share <= 0) return "0 %";
  if (share < 0.001) return "<0.1 %";
  if (share >= 1) return "100 %";
  return share >= 0.9995 ? ">99.9 %" : `${(share * 100).toFixed(1)} %`;
}

export function duration(seconds) {
  const [value, unit] = seconds < 0.0009995 ? [seconds * 1e6, "µs"]
    : seconds < 0.9995 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${Number(value.toFixed(digits))} ${unit}`;
}

export function latency(seconds, bounds) {
  if (seconds === null) return NONE;
  const beyond = bounds.length > 0 && seconds >= bounds[bounds.length - 1];
  return beyond ? `≥${duration(seconds)}` : duration(seconds);
}

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  let value = number / 1024;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  while (value >= 1023.5 && units.length > 1) {
    value /= 1024;
    units.shift();
  }
  return `${value.toFixed(value < 9.95 ? 1 : 0)} ${units[0]}`;
}
