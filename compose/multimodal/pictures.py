"""Pictures, by Pillow: what they are, small copies of them, and their EXIF data. Runs in the reading process alone."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import IFDRational

from multimodal.decoded import Decoded, RefusedFileError

PLUGINS = {"JPEG": "Jpeg", "PNG": "Png", "GIF": "Gif", "WEBP": "WebP", "BMP": "Bmp", "TIFF": "Tiff"}
PLUGINS |= {"AVIF": "Avif"}
"""What is read, of the 43 formats that Pillow knows, and who reads it: each decoder is a way in."""

MOST_PIXELS = 50_000_000
"""Of a picture, a page or a frame: 200 MB with four bytes a pixel. A camera's largest common picture has 48 million."""

THUMBNAIL, PREVIEW = 256, 1024
"""The longest side of a thumbnail, and of what a vision model is shown: more than 1024 costs tokens, and few models
look closer (Qwen3-VL, Gemma 3, SmolVLM: their processors, 2026-11).
"""

MOST_TAGS, MOST_TAG_CHARACTERS = 200, 500
_QUALITY = 85


def load_plugins() -> None:
    """Load what reads the formats: Pillow does it by itself for some of them only."""
    for name in PLUGINS.values():
        import_module(f"PIL.{name}ImagePlugin")


def read_picture(path: Path, folder: Path, want: Mapping[str, Any]) -> Decoded | None:
    """Return what a picture holds; None where the file is none. Raises RefusedFileError."""
    Image.MAX_IMAGE_PIXELS = None  # told in a sentence of our own, below
    try:
        image: Image.Image = Image.open(path, formats=tuple(PLUGINS))
    except (OSError, ValueError, SyntaxError):
        return None
    with image:
        check_size(*image.size)
        media: dict[str, Any] = {"kind": "picture", "format": image.format, "mode": image.mode}
        tags = _exif(image) if want.get("exif") else {}
        size = _upright_size(image)
        try:
            image.draft("RGB", (2 * PREVIEW, 2 * PREVIEW))  # JPEG's own way to decode an eighth of a picture
            # Made small before it is turned: turning takes a second copy of all pixels.
            image.thumbnail((PREVIEW, PREVIEW), reducing_gap=2.0)
            upright = ImageOps.exif_transpose(image)
        except (OSError, ValueError, SyntaxError, EOFError) as failure:
            raise RefusedFileError(f"the picture is damaged or truncated: {failure}") from failure
        decoded = Decoded(media={**media, "width": size[0], "height": size[1]})
        if tags:
            decoded.media["exif"] = tags
        keep_image(upright, folder, decoded, want)
        return decoded


def check_size(width: int, height: int) -> None:
    """Raise RefusedFileError where a picture, a frame or a page has more pixels than are decoded."""
    if width <= 0 or height <= 0 or width * height > MOST_PIXELS:
        raise RefusedFileError(f"it has {width} × {height} pixels; {MOST_PIXELS} are allowed")


def keep_image(image: Image.Image, folder: Path, decoded: Decoded, want: Mapping[str, Any]) -> None:
    """Write the thumbnail that is wanted, and the preview that a vision model is shown."""
    plain = flatten(image, PREVIEW)
    save(plain, folder / "preview.jpg", decoded)
    decoded.views.append({"file": "preview.jpg"})
    if want.get("thumbnails"):
        keep_thumbnail(plain, folder, decoded)


def keep_thumbnail(image: Image.Image, folder: Path, decoded: Decoded) -> None:
    """Write a thumbnail."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    save(small, folder / "thumbnail.jpg", decoded)


def flatten(image: Image.Image, longest: int) -> Image.Image:
    """Return a copy in plain colours, on white where it is transparent, whose sides are no longer than that."""
    image.thumbnail((longest, longest), reducing_gap=2.0)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16 bits of grey, as X-rays and depths have
        low, high = image.convert("F").getextrema()
        scale = 255.0 / ((high - low) or 1)  # type: ignore[operator]
        image = image.convert("F").point(lambda value: value * scale - low * scale).convert("L")  # type: ignore[operator]
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.new("RGBA", over.size, "white")
        image.alpha_composite(over)
    return image.convert("RGB")


def save(image: Image.Image, path: Path, decoded: Decoded) -> None:
    """Write a JPEG file without any of the original's tags."""
    image.save(path, "JPEG", quality=_QUALITY)
    decoded.files.append({"name": path.name, "type": "image/jpeg"})


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as a person sees them."""
    try:
        is_turned = int(image.getexif().get(ExifTags.Base.Orientation, 1)) >= 5
    except Exception:  # noqa: BLE001  # Pillow's readers of tags raise what they like at damaged ones
        is_turned = False
    return (image.height, image.width) if is_turned else image.size


def _exif(image: Image.Image) -> dict[str, Any]:
    """Return the EXIF data by their names. Damaged ones are left out."""
    found: dict[str, Any] = {}
    try:
        exif = image.getexif()
        groups: list[tuple[Mapping[int, Any], Mapping[int, str]]] = [(exif, ExifTags.TAGS)]
        groups.append((exif.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS))
        groups.append((exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS))
    except Exception:  # noqa: BLE001  # Pillow's readers of tags raise what they like at damaged ones
        return found
    for group, names in groups:
        for number, value in group.items():
            name = names.get(number)
            told = _plain(value)
            if name and told is not None and len(found) < MOST_TAGS:
                found[name] = told
    return found


def _plain(value: object) -> Any:
    """Return a tag's value as JSON has it; None for what is only for programs."""
    if isinstance(value, IFDRational):
        number = float(value) if value.denominator else None
        return number
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        return (
            text.decode()
            if text.isascii() and len(text) <= MOST_TAG_CHARACTERS and text.decode().isprintable()
            else None
        )
    if isinstance(value, str):
        return value.rstrip("\0").strip()[:MOST_TAG_CHARACTERS].encode("utf-8", "replace").decode()
    if isinstance(value, tuple) and len(value) <= 16:
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float) else None
