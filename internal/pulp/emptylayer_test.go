package pulp

import "testing"

func TestEmptyLayer(t *testing.T) {
	t.Parallel()
	if got := EmptyLayer.Algorithm().FromBytes(EmptyLayerContent()); got != EmptyLayer {
		t.Errorf("the content has the digest %s, want %s", got, EmptyLayer)
	}
}
