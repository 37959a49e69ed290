// The playground as files: its tables, and its pictures side by side.

function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));

/** Tables [caption, head, rows] as the text of a CSV file, one after the other. */
export const csv = (tables) => tables.map(([caption, head, rows]) => [[caption], head, ...rows].map((row) => row.map(quoted).join(",")).join("\n")).join("\n\n");

export const saveCsv = (tables) => download("playground.csv", new Blob([csv(tables)], { type: "text/csv" }));

/** The drawing, and of each network v₁ and the moved image, side by side on one canvas. */
function sheet({ root }) {
  const pictures = [...root.querySelectorAll(".fv-plate canvas")];
  const side = 256, gap = 16;
  const canvas = Object.assign(document.createElement("canvas"), { width: pictures.length * (side + gap) - gap, height: side });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  pictures.forEach((picture, i) => context.drawImage(picture, i * (side + gap), 0, side, (side * picture.height) / picture.width));
  return canvas;
}

export const savePng = (view) => sheet(view).toBlob((blob) => download("playground.png", blob));

/** The same with its title, as a drawing of lines and words. */
export function saveSvg(view) {
  const canvas = sheet(view);
  const title = view.title().replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  const text = `<svg xmlns="http${"://"}www.w3.org/2000/svg" width="${canvas.width}" height="${canvas.height + 40}" viewBox="0 0 ${canvas.width} ${canvas.height + 40}">` +
    `<text x="0" y="24" font-family="sans-serif" font-size="18">${title}</text><image y="40" width="${canvas.width}" height="${canvas.height}" href="${canvas.toDataURL()}"/></svg>`;
  download("playground.svg", new Blob([text], { type: "image/svg+xml" }));
}
