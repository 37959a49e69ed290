// Products of matrices in row-major typed arrays, four rows and two columns at a time: what a network's time goes into.

/** C += A B for A (n, m) from `a`, B (m, p) from `b`, C (n, p) from `c`. */
export function multiply(n, m, p, A, a, B, b, C, c) {
  let i = 0;
  for (; i + 3 < n; i += 4) {
    const [a0, a1, a2, a3] = [a + i * m, a + (i + 1) * m, a + (i + 2) * m, a + (i + 3) * m];
    const [c0, c1, c2, c3] = [c + i * p, c + (i + 1) * p, c + (i + 2) * p, c + (i + 3) * p];
    let j = 0;
    for (; j + 1 < p; j += 2) {
      let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
      for (let k = 0, at = b + j; k < m; k++, at += p) {
        const x = B[at], y = B[at + 1];
        const w0 = A[a0 + k], w1 = A[a1 + k], w2 = A[a2 + k], w3 = A[a3 + k];
        s00 += w0 * x; s01 += w0 * y;
        s10 += w1 * x; s11 += w1 * y;
        s20 += w2 * x; s21 += w2 * y;
        s30 += w3 * x; s31 += w3 * y;
      }
      C[c0 + j] += s00; C[c0 + j + 1] += s01;
      C[c1 + j] += s10; C[c1 + j + 1] += s11;
      C[c2 + j] += s20; C[c2 + j + 1] += s21;
      C[c3 + j] += s30; C[c3 + j + 1] += s31;
    }
    if (j < p) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let k = 0, at = b + j; k < m; k++, at += p) {
        const x = B[at];
        s0 += A[a0 + k] * x; s1 += A[a1 + k] * x; s2 += A[a2 + k] * x; s3 += A[a3 + k] * x;
      }
      C[c0 + j] += s0; C[c1 + j] += s1; C[c2 + j] += s2; C[c3 + j] += s3;
    }
  }
  for (; i < n; i++) {
    const row = c + i * p;
    for (let k = 0; k < m; k++) {
      const w = A[a + i * m + k];
      if (w === 0) continue;
      for (let j = 0, at = b + k * p; j < p; j++, at++) C[row + j] += w * B[at];
    }
  }
}

/** The transpose of A (n, m). */
export function transposed(n, m, A, a = 0, out = new Float64Array(n * m)) {
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) out[j * n + i] = A[a + i * m + j];
  return out;
}

/**
 * Eigenvalues of a symmetric matrix (n, n), descending, and its eigenvectors as rows: by Jacobi's rotations, which are
 * exact to rounding relative to the largest.
 */
export function eigen(n, symmetric) {
  const A = Float64Array.from(symmetric);
  const V = new Float64Array(n * n);
  for (let i = 0; i < n; i++) V[i * n + i] = 1;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0, whole = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      whole += A[i * n + j] ** 2;
      if (i !== j) off += A[i * n + j] ** 2;
    }
    if (!(off > 1e-32 * whole)) break;
    for (let p = 0; p < n - 1; p++) for (let q = p + 1; q < n; q++) {
      const apq = A[p * n + q];
      if (apq === 0) continue;
      const theta = (A[q * n + q] - A[p * n + p]) / (2 * apq);
      const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
      const c = 1 / Math.hypot(t, 1), s = t * c;
      for (let k = 0; k < n; k++) {
        const x = A[k * n + p], y = A[k * n + q];
        A[k * n + p] = c * x - s * y;
        A[k * n + q] = s * x + c * y;
      }
      for (let k = 0; k < n; k++) {
        const x = A[p * n + k], y = A[q * n + k];
        A[p * n + k] = c * x - s * y;
        A[q * n + k] = s * x + c * y;
        const u = V[p * n + k], w = V[q * n + k];
        V[p * n + k] = c * u - s * w;
        V[q * n + k] = s * u + c * w;
      }
    }
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => A[j * n + j] - A[i * n + i]);
  return { values: order.map((i) => A[i * n + i]), vectors: order.map((i) => V.slice(i * n, (i + 1) * n)) };
}
