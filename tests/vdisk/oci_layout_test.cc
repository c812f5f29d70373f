// SPDX-License-Identifier: Apache-2.0
// Images from archives of others: layers, whiteouts, platforms, several images in one.
#include "vdisk/oci_layout.h"

#include <fstream>

#include "host.h"
#include "vdisk/image.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::make_directory;
using test::shell;

TEST(Layers, WhiteoutsOfAnOciArchive) {
  auto host = test::HostFilesystem::make("root", 0);
  const std::string root = make_directory("oci");
  std::string output;
  ASSERT_EQ(shell(R"(cd )" + root + R"( && python3 - <<'END'
import hashlib, io, json, os, tarfile, gzip
def layer(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                t.addfile(info)
            else:
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    return out.getvalue()
os.makedirs("blobs/sha256")
def blob(data, media):
    h = hashlib.sha256(data).hexdigest()
    open("blobs/sha256/" + h, "wb").write(data)
    return {"mediaType": media, "digest": "sha256:" + h, "size": len(data)}
a = layer(("etc", None), ("etc/keep", b"1"), ("etc/gone", b"1"), ("opaque", None),
          ("opaque/old", b"1"), ("file", b"1"))
b = layer(("etc/.wh.gone", b""), ("opaque/new", b"2"), ("opaque/.wh..wh..opq", b""), ("file", b"2"))
layers = [blob(gzip.compress(a), "application/vnd.oci.image.layer.v1.tar+gzip"),
          blob(b, "application/vnd.oci.image.layer.v1.tar")]
config = blob(json.dumps({"config": {"Env": ["A=b"], "WorkingDir": "/etc"}}).encode(),
              "application/vnd.oci.image.config.v1+json")
manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(),
                "application/vnd.oci.image.manifest.v1+json")
json.dump({"imageLayoutVersion": "1.0.0"}, open("oci-layout", "w"))
json.dump({"schemaVersion": 2, "manifests": [manifest]}, open("index.json", "w"))
END
tar cf ../oci.tar .)",
                  &output),
            0)
      << output;
  auto images = ImageStore::open(host->path() + "/images");
  ASSERT_TRUE(images);
  const auto image = images->import(test::scratch_directory() + "/oci.tar", "oci");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->config.environment, std::vector<std::string>{"A=b"});
  EXPECT_EQ(image->config.workdir, "/etc");
  const auto mounted = images->mount(*image);
  ASSERT_TRUE(mounted) << mounted.error().message();
  ASSERT_EQ(shell("cd " + path_of(mounted->mount.get()) + "/ && find . -type f | sort && cat file",
                  &output),
            0);
  EXPECT_EQ(output, "./etc/keep\n./file\n./opaque/new\n2");
  const auto same = images->import(root, "oci-directory");
  ASSERT_TRUE(same) << same.error().message();
  EXPECT_EQ(same->digest, image->digest);
  ASSERT_EQ(shell("cd " + root + " && for f in blobs/sha256/*; do echo x >> $f; done"), 0);
  const auto damaged = images->import(root, "oci-damaged");
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().text.find("damaged"), std::string::npos) << damaged.error().text;
}

// As Docker before 25 saved an image with the same layer twice.
TEST(Layers, ADockerArchiveWithASymlink) {
  auto host = test::HostFilesystem::make("root", 0);
  const std::string root = make_directory("docker");
  const std::string archive = test::scratch_directory() + "/docker.tar";
  ASSERT_EQ(
      shell("cd " + root + R"( && mkdir a b && echo 1 > one && tar cf a/layer.tar one && rm one &&
ln -s ../a/layer.tar b/layer.tar && echo '{"config": {"User": "me"}}' > c.json &&
echo '[{"Config": "c.json", "Layers": ["a/layer.tar", "b/layer.tar"]}]' > manifest.json &&
tar cf )" + archive +
            " *"),
      0);
  const auto images = ImageStore::open(host->path() + "/images");
  ASSERT_TRUE(images);
  for (const std::string& source : {root, archive}) {
    const auto image = images->import(
        source, "from-" + image_name_of(source) + (source == root ? "-directory" : ""));
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->config.user, "me");
    EXPECT_EQ(image->entries, 2U);  // the same file twice
  }
  for (const char* target : {"/etc/passwd", "../../../../../etc/passwd", "layer.tar", "."}) {
    ASSERT_EQ(shell("ln -sfn " + std::string(target) + " " + root + "/b/layer.tar"), 0);
    const auto image = images->import(root, "bad");
    ASSERT_FALSE(image) << target;
    EXPECT_NE(image.error().text.find("missing"), std::string::npos) << image.error().text;
  }
}

// {FILE: JSON} of `code`, a Python expression that may call blob(object, **more), which returns a
// descriptor.
Result<Image> import_layout(const ImageStore& images, const std::string& code) {
  const std::string root = make_directory("layout");
  std::ofstream(root + ".py") << R"(import hashlib, json, os
os.makedirs("blobs/sha256")
os.system("tar cf layer --files-from /dev/null && echo > f && tar cf layer f && rm f")
def store(data, **more):
    digest = hashlib.sha256(data).hexdigest()
    open("blobs/sha256/" + digest, "wb").write(data)
    return {"digest": "sha256:" + digest, "size": len(data), **more}
def blob(value, **more):
    return store(json.dumps(value).encode(), **more)
def on(architecture, os="linux"):
    return {"os": os, "architecture": architecture}
def image(config={}, **more):
    layer = store(open("layer", "rb").read())
    return blob({"config": blob(config), "layers": [layer]}, **more)
def named(name, architecture=None):
    more = {"platform": on(architecture)} if architecture else {}
    return image({"config": {"User": name}}, **more,
                 annotations={"org.opencontainers.image.ref.name": name})
def index(*manifests):
    return {"oci-layout": {}, "index.json": {"manifests": manifests}}
def docker(*tags, **config):
    return {"c.json": config, "manifest.json": [
        {"Config": "c.json", "RepoTags": [tag], "Layers": ["layer"]} for tag in tags]}
files = )" << code << R"(
for name, value in files.items():
    json.dump(value, open(name, "w"))
)";
  std::string output;
  EXPECT_EQ(shell("cd " + root + " && python3 " + root + ".py", &output), 0) << output;
  (void)images.remove("layout");
  return images.import(root, "layout");
}

TEST(Layers, AnotherMachinesImageIsRefused) {
  auto host = test::HostFilesystem::make("root", 0);
  const auto images = ImageStore::open(host->path() + "/images");
  ASSERT_TRUE(images);
  for (const char* code : {"index(image(platform=on('arm64')))", "docker('a', **on('arm64'))",
                           "index(image(on('arm64')))",
                           "index(blob({'manifests': [image(platform=on('arm64')), "
                           "image(platform=on('unknown', 'unknown'))]}))"}) {
    const auto refused = import_layout(*images, code);
    ASSERT_FALSE(refused) << code;
    EXPECT_NE(
        refused.error().text.find("it is for \"linux/arm64\", and this machine is linux/amd64"),
        std::string::npos)
        << code << ": " << refused.error().message();
  }
  for (const char* code :
       {"index(image(on('amd64')))", "index(image(on('386'), platform=on('386')))",
        "index(blob({'manifests': [image(platform=on('arm64')), image(platform=on('amd64'))]}))",
        "docker('a', **on('amd64'))", "docker('a', architecture='amd64')"}) {
    const auto image = import_layout(*images, code);
    EXPECT_TRUE(image) << code << ": " << image.error().message();
  }
}

TEST(Layers, OneOfSeveralImagesIsNotTaken) {
  auto host = test::HostFilesystem::make("root", 0);
  const auto images = ImageStore::open(host->path() + "/images");
  ASSERT_TRUE(images);
  for (const char* code : {"docker('a:1', 'b:2')", "index(named('a:1'), named('b:2'))",
                           "index(named('a:1', 'amd64'), named('b:2', 'amd64'))"}) {
    const auto refused = import_layout(*images, code);
    ASSERT_FALSE(refused) << code;
    EXPECT_NE(refused.error().text.find("it holds 2 images (\"a:1, b:2\")"), std::string::npos)
        << code << ": " << refused.error().message();
  }
  // Two names of one, and two platforms.
  for (const char* code : {"index(image(annotations={'x': 'a'}), image(annotations={'x': 'b'}))",
                           "index(named('a', 'arm64'), named('a', 'amd64'))"}) {
    const auto image = import_layout(*images, code);
    EXPECT_TRUE(image) << code << ": " << image.error().message();
  }
}

}  // namespace
}  // namespace umwelt::vdisk
