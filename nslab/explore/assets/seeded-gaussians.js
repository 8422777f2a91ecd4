// Standard Gaussians that a seed and a place determine, the same here and in nslab/explore/seeded_gaussians.py.

const STRIDE = 0x6d2b79f5; // of mulberry32's counter

// mulberry32's mixer, from its counter to 32 random bits.
function mixed(word) {
  let t = word | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return (t ^ (t >>> 14)) >>> 0;
}

// Two independent standard Gaussians at a place in the stream that begins at `start` = mixed(seed) (Box and Muller).
function gaussianPair(start, index) {
  const one = (mixed(start + Math.imul(2 * index, STRIDE)) + 0.5) / 2 ** 32;
  const two = (mixed(start + Math.imul(2 * index + 1, STRIDE)) + 0.5) / 2 ** 32;
  const radius = Math.sqrt(-2 * Math.log(one));
  const angle = 2 * Math.PI * two;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}
